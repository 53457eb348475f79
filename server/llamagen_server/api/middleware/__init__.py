"""Pure ASGI middleware, outermost first: forwarded, security headers, CORS, access log, tracing, keys, body limit."""
