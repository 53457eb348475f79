"""The OpenAPI page: keys, event streams, and our error replies in place of FastAPI's own format and 422."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from llamagen_server.api.middleware.api_key import HEADERS, is_open

DESCRIPTIONS = {
    400: "The request is wrong; the message names the bad value and the allowed ones.",
    401: f"The server requires a key: {HEADERS}.",
    404: "The route, model or image does not exist.",
    413: "The body is too large.",
    415: "The body is compressed.",
    429: "The server has too much work, or too much of this key; try again after Retry-After seconds.",
    500: "The server failed; its log has the details.",
    503: "The model is loading, the server is stopping, or the engine is gone.",
    504: "The request was not finished within its timeout.",
}
ALWAYS = (401, 500)
"""Statuses of every route; `install` removes 401 from those that need no key."""


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    error: ErrorDetail


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Returns the ``responses`` of a route that can reply with these statuses."""
    return {
        status: {"model": ErrorBody, "description": DESCRIPTIONS[status]} for status in sorted({*statuses, *ALWAYS})
    }


IMAGE_ERRORS = errors(400, 404, 413, 415, 429, 503, 504)
"""Errors of a route that generates images."""


def events(*names: str) -> dict[str, Any]:
    """Returns the content of a stream of server-sent events with these names; their data are JSON objects."""
    data = {"type": "string", "contentMediaType": "application/json"}
    properties = {"event": {"type": "string", "enum": [*names, "error"]}, "data": data}
    schema = {"type": "object", "properties": properties, "required": ["event", "data"]}
    return {"text/event-stream": {"schema": schema}}


def install(app: FastAPI, needs_key: bool) -> None:
    """Makes the OpenAPI schema state which routes need a key, and removes FastAPI's own validation error."""

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
                tags=app.openapi_tags,
            )
            for path, operations in schema["paths"].items():
                for operation in operations.values():
                    operation["responses"].pop("422", None)
                    if needs_key and not is_open(path):
                        operation["security"] = [{"key": []}]
                    else:
                        operation["responses"].pop("401", None)
            for name in ("HTTPValidationError", "ValidationError"):
                schema["components"]["schemas"].pop(name, None)
            if needs_key:
                schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = describe  # type: ignore[method-assign]
