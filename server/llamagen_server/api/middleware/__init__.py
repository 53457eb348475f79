"""Pure ASGI middleware. `llamagen_server.api.app` has their order."""
