"""Pure ASGI middleware, from the outermost inwards: security headers, CORS, access log, tracing, API keys, body limit."""
