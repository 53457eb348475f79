"""Headers that keep browsers from misusing replies: for every reply, and for our two pages."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

EVERY_REPLY = {"x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}

_SAME_ORIGIN = "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

PLAYGROUND = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    + _SAME_ORIGIN,
    "cross-origin-opener-policy": "same-origin",
}
"""The page loads nothing from elsewhere and runs no inline script."""

API_PAGE = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; " + _SAME_ORIGIN,
}
"""The same for ``/docs``; Swagger UI sets styles in its elements."""


class SecurityHeaders:
    """Adds the headers of every reply; the routes of pages add those of their page."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in EVERY_REPLY.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, send_with_headers if scope["type"] == "http" else send)
