"""Middleware for requests that differ from a route's in form only: HEAD, and slashes too many in the path."""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class LenientRequests:
    """Answers HEAD as GET without a body, and finds routes of paths such as ``//v1/models`` and ``/v1/models/``.

    Slashes come from base URLs with one at their end. A redirect, Starlette's answer, is not followed by every client
    of POST. The pages of the server keep it: they need their slash for relative links.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["path"] = _plain(scope["path"], scope["method"])
            if scope["method"] == "HEAD":
                await self.app({**scope, "method": "GET"}, receive, _without_body(send))
                return
        await self.app(scope, receive, send)


def _plain(path: str, method: str) -> str:
    path = re.sub("/{2,}", "/", path)
    return path.rstrip("/") or "/" if method == "POST" or "/v1/" in path else path


def _without_body(send: Send) -> Send:
    async def send_head(message: Message) -> None:
        await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

    return send_head
