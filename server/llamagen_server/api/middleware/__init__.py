"""Pure ASGI middleware, from the outermost inwards: access log, API key, body limit."""
