"""Middleware that refuses large bodies before a route reads them."""

from __future__ import annotations

import sys

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llamagen_server.api.errors import ApiError

MAX_BODY = 2**20
"""Bytes of a request's body. JSON is parsed on the event loop, so a large one would hold up everybody."""
MAX_IMAGE_BODY = {"/v1/images/edits": 64 * 2**20, "/v1/images/encode": 8 * 2**20}
"""By path, for bodies that hold images. The form of an edit is parsed in pieces."""

MAX_VALUES = 20_000
"""Brackets and commas of a body of JSON: a value of two bytes, such as ``[]``, takes a hundred or more in memory."""

MAX_DISCARDED = 2**28
"""Declared bytes of a refused body that are still read, so that its client sees the reply; else the connection ends."""


class BodyLimit:
    """Answers 413 to a body that is too large for its path; before reading it if its length is declared."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = MAX_IMAGE_BODY.get(scope["path"], MAX_BODY)
        message = f"the body has more than {limit} bytes"
        headers = Headers(scope=scope)
        length, is_form = headers.get("content-length", ""), headers.get("content-type", "").startswith("multipart/")
        declared = int(length) if length.isdecimal() else sys.maxsize
        closing = {"connection": "close"} if declared > MAX_DISCARDED else None
        if length and declared > limit:
            raise ApiError(413, message, headers=closing)
        received = values = 0

        async def limited() -> Message:
            nonlocal received, values
            part = await receive()
            body = part.get("body", b"")
            received += len(body)
            if received > limit:
                raise HTTPException(413, message, closing)  # body parsers let an HTTPException through
            values += 0 if is_form else sum(map(body.count, b"[{,"))
            if values > MAX_VALUES:
                raise HTTPException(413, f"the body has more than {MAX_VALUES} values", closing)
            return part

        await self.app(scope, limited, send)
