"""Pure ASGI middleware, outermost first: security headers, CORS, access log, tracing, API keys, body limit."""
