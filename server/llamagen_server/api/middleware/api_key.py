"""Pure ASGI middleware that refuses requests before a route sees them: without a key, or with too large a body."""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llamagen_server.api.errors import ApiError

OPEN_PATHS = ("/", "/health", "/ready", "/ping", "/version", "/metrics")
OPEN_PREFIX = "/playground/"
"""Files of the playground page; it asks for the key itself."""

MAX_BODY = 2**20
"""Bytes of a request's body. JSON is parsed on the event loop, so that a large one would hold up everybody."""
MAX_IMAGE_BODY = {"/v1/images/edits": 64 * 2**20, "/tokenize": 8 * 2**20}
"""By path, for bodies that hold images. A form, which edits are, is parsed in pieces."""


class ApiKeys:
    """Wants ``Authorization: Bearer KEY`` with one of the keys, on every route that is not open."""

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


class BodyLimit:
    """Answers 413 to a body that is too large for its path, at once where its length is told."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = MAX_IMAGE_BODY.get(scope["path"], MAX_BODY)
        message = f"the body has more than {limit} bytes"
        length = Headers(scope=scope).get("content-length", "")
        if length.isdecimal() and int(length) > limit:
            raise ApiError(413, message)
        received = 0

        async def limited() -> Message:
            nonlocal received
            part = await receive()
            received += len(part.get("body", b""))
            if received > limit:
                raise HTTPException(413, message)  # passes through whatever reads the body
            return part

        await self.app(scope, limited, send)
