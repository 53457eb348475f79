"""Middleware for replies that come before their request's body has been read, such as 401 or 413."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_READ = 2**28
"""Bytes of a body that are read for the sake of the reply; beyond them the connection ends."""
DISCARD_SECONDS = 20.0
"""Time for that."""


class UnreadBody:
    """Holds a reply back until the rest of the request's body is read and dropped.

    Many clients read a reply only when they have sent their whole body, and would see a connection that is reset. A
    client that waits for leave to send it (``Expect: 100-continue``) gets the reply at once.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = _Body(Headers(scope=scope), receive)

        async def send_after_body(message: Message) -> None:
            if message["type"] == "http.response.start" and not await body.discard():
                MutableHeaders(scope=message)["connection"] = "close"
            await send(message)

        await self.app(scope, body.receive, send_after_body)


class _Body:
    def __init__(self, headers: Headers, receive: Receive) -> None:
        length = headers.get("content-length", "")
        self._receive, self._received = receive, 0
        self._declared = int(length) if length.isdecimal() else 0
        self._is_unread = self._declared > 0 or "transfer-encoding" in headers
        self._client_waits = headers.get("expect", "").lower() == "100-continue"

    async def receive(self) -> Message:
        self._client_waits = False  # the server gives leave when it is asked for the body
        part = await self._receive()
        self._received += len(part.get("body", b""))
        self._is_unread = part.get("more_body", False)
        return part

    async def discard(self) -> bool:
        """Reads and drops what is left. Returns whether the connection can go on."""
        if self._client_waits:
            return True
        task = asyncio.current_task()
        if task and task.cancelling():  # the server stops now
            return not self._is_unread
        with suppress(TimeoutError):
            async with asyncio.timeout(DISCARD_SECONDS):
                while self._is_unread and max(self._received, self._declared) <= MAX_BODY_READ:
                    await self.receive()
        return not self._is_unread
