"""The one place where exceptions become replies: ``{"error": {"message", "type", "param", "code"}}``.

Exceptions that have no handler reach `AccessLog`, which calls `error_reply` too.
"""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from llamagen_server.api.disconnect import ClientDisconnectedError
from llamagen_server.api.paths import route_path
from llamagen_server.core.errors import (
    DeadlineError,
    EngineError,
    EngineStoppedError,
    InvalidRequestError,
    OverloadedError,
    describe,
)

logger = logging.getLogger(__name__)

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
    504: "timeout_error",
}

MAX_TEXT = 1000
"""Characters of a message."""

NO_RETRY = {"x-should-retry": "false"}
"""OpenAI's clients repeat requests with status 500 and above unless this header forbids it."""


class ApiError(Exception):
    """An error reply."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.headers = status, message, param, code, headers


def unavailable(message: str) -> ApiError:
    return ApiError(503, message, headers={"retry-after": "5"})


def error_reply(error: Exception) -> JSONResponse:
    """Returns the reply to an error. An unexpected one is logged, and its details stay in the log."""
    match error:
        case ApiError():
            return _reply(error.status, error.message, error.param, error.code, error.headers)
        case InvalidRequestError():
            return _reply(400, str(error), error.param)
        case RequestValidationError():
            return _reply(400, *describe(error.errors()[0]))
        case HTTPException():
            return _reply(error.status_code, str(error.detail), headers=dict(error.headers or {}))
        case OverloadedError():
            return _reply(429, str(error), code="overloaded", headers={"retry-after": str(error.retry_after)})
        case DeadlineError():
            return _reply(504, str(error), code="timeout", headers=NO_RETRY)
        case EngineStoppedError():
            return _reply(503, str(error))
        case EngineError():
            return _reply(500, str(error), headers=NO_RETRY)
    logger.error("request failed", exc_info=error)
    return _reply(500, "internal error; see the server's log")


def _reply(
    status: int,
    message: str,
    param: str | None = None,
    code: str | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    kind = TYPES.get(status, "server_error")
    body = {"error": {"message": _short(message), "type": kind, "param": param and _short(param), "code": code}}
    return JSONResponse(body, status, headers)


def _short(text: str) -> str:
    """Cuts off the text of a value that somebody made very long."""
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "..."


def _detail(request: Request, error: HTTPException) -> str:
    """Returns the text of an error outside our routes; a path with a wrong prefix gets the right one."""
    if error.detail == "There was an error parsing the body":  # FastAPI's word for any other fault than bad JSON
        return "the body is not JSON in UTF-8"
    path, prefix = route_path(request.scope), request.scope.get("root_path", "")
    near = (f"/v1{path}", path.removeprefix("/v1")) if error.status_code in (404, 405) else ()
    for other in near:
        scope = {**request.scope, "path": prefix + other}
        if other != path and any(route.matches(scope)[0] is Match.FULL for route in request.app.routes):
            return f"{error.detail}; {request.method} {prefix + other} exists"
    return str(error.detail)


def install(app: FastAPI) -> None:
    """Adds the exception handlers to an app."""

    async def handle(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            error.detail = f"{request.method} {request.url.path}: {_detail(request, error)}"
        return error_reply(error)

    async def client_gone(request: Request, error: Exception) -> Response:
        return Response(status_code=499)  # for the log: the client is gone

    expected = (
        ApiError,
        InvalidRequestError,
        RequestValidationError,
        HTTPException,
        OverloadedError,
        DeadlineError,
        EngineError,
    )
    for kind in expected:
        app.add_exception_handler(kind, handle)
    for gone in (ClientDisconnectedError, ClientDisconnect):
        app.add_exception_handler(gone, client_gone)
