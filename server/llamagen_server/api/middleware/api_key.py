"""Middleware that refuses requests without a key."""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from llamagen_server.api.errors import ApiError

OPEN_PATHS = ("/", "/health", "/ready", "/ping", "/version", "/metrics")
OPEN_PREFIX = "/playground/"
"""Files of the playground page, which asks for the key itself."""


class ApiKeys:
    """Requires ``Authorization: Bearer KEY`` with one of the keys, on every route that is not open."""

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self.app = app
        self.keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._allowed(scope):
            message = "a key is needed: send the header Authorization: Bearer KEY with a key of this server"
            raise ApiError(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})
        await self.app(scope, receive, send)

    def _allowed(self, scope: Scope) -> bool:
        if scope["path"] in OPEN_PATHS or scope["path"].startswith(OPEN_PREFIX):
            return True
        scheme, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        token = given.strip().encode()
        return scheme.lower() == "bearer" and any(hmac.compare_digest(token, key) for key in self.keys)
