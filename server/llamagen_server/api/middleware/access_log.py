"""Middleware that gives every request an id, logs one line when it is over, and answers unexpected errors."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llamagen_server.api.errors import error_reply, unavailable
from llamagen_server.api.paths import route_path
from llamagen_server.core import logs, metrics

logger = logging.getLogger(__name__)

_PROBES = ("/health", "/ready", "/ping", "/load", "/metrics")
# The engine's ids of what is no image start with an underscore.
_CLIENT_ID = re.compile(r"(?!_)[\w.-]{1,64}")


class AccessLog:
    """The id is the client's ``x-request-id`` if it is short and plain, else a new one; each reply carries it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _CLIENT_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {}).update(request_id=request_id, start=start)
        in_log = logs.REQUEST_ID.set(request_id)
        status = "aborted"

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except Exception as error:  # answered here, where the reply still gets its id
            if status != "aborted":
                raise
            await error_reply(error)(scope, receive, send_with_id)
        except asyncio.CancelledError:  # the server stops, and its time for requests in flight is over
            if status == "aborted":
                await error_reply(unavailable("the server is stopping"))(scope, receive, send_with_id)
            raise
        finally:
            metrics.REPLIES.labels(status).inc()
            duration = (time.perf_counter() - start) * 1000
            level = logging.DEBUG if route_path(scope) in _PROBES else logging.INFO
            logger.log(
                level, "%s %s %s %s %.0f ms", request_id, scope["method"], quote(scope["path"]), status, duration
            )
            logs.REQUEST_ID.reset(in_log)
