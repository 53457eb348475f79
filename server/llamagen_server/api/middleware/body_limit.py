"""Middleware that refuses large bodies before a route reads them."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llamagen_server.api.errors import ApiError
from llamagen_server.api.paths import route_path

MAX_BODY = 2**20
"""Bytes of a request's body. JSON is parsed on the event loop, so a large one would hold up everybody."""
MAX_IMAGE_BODY = {"/v1/images/edits": 64 * 2**20, "/v1/images/encode": 8 * 2**20}
"""By path, for bodies that hold images. The form of an edit is parsed in pieces."""

MAX_VALUES = 20_000
"""Brackets and commas of a body of JSON: a value of two bytes, such as ``[]``, takes a hundred or more in memory."""


class BodyLimit:
    """Answers 413 to a body that is too large for its path, and 415 to a compressed one."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        encoding = headers.get("content-encoding", "").strip().lower()
        if encoding not in ("", "identity"):
            raise ApiError(
                415, f"content-encoding is {encoding!r}: bodies must be sent uncompressed", "content-encoding"
            )
        limit = MAX_IMAGE_BODY.get(route_path(scope), MAX_BODY)
        message = f"the body has more than {limit} bytes"
        is_form = headers.get("content-type", "").lower().startswith("multipart/")
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > limit:
            raise ApiError(413, message)
        received = values = 0

        async def limited() -> Message:
            nonlocal received, values
            part = await receive()
            body = part.get("body", b"")
            received += len(body)
            values += 0 if is_form else sum(map(body.count, b"[{,"))
            if received > limit or values > MAX_VALUES:
                text = message if received > limit else f"the body has more than {MAX_VALUES} values"
                raise HTTPException(413, text)  # body parsers let an HTTPException through
            return part

        await self.app(scope, limited, send)
