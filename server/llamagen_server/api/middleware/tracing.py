"""Middleware that opens the root span of each request that may take time, if traces are on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llamagen_server.core import telemetry

if TYPE_CHECKING:
    from opentelemetry.trace import Span


class Tracing:
    """Traces POST requests. Runs inside `AccessLog`, which chooses the id of the request."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        with telemetry.request_span(
            Headers(scope=scope),
            request_id=scope["state"]["request_id"],
            model=scope["app"].state.model_names[0],
            path=scope["path"],
        ) as span:
            if span is None:
                await self.app(scope, receive, send)
                return

            async def send_and_note(message: Message) -> None:
                if message["type"] == "http.response.start":
                    _note_status(span, message["status"])
                await send(message)

            try:
                await self.app(scope, receive, send_and_note)
            except Exception:  # AccessLog answers it
                _note_status(span, 500)
                raise


def _note_status(span: Span, status: int) -> None:
    from opentelemetry.trace import StatusCode

    span.set_attribute("http.response.status_code", status)
    if status >= 500:
        span.set_status(StatusCode.ERROR)
