"""What the OpenAPI page says of errors: FastAPI would promise its own format and 422."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from llamagen_server.api.middleware.api_key import OPEN_PATHS

DESCRIPTIONS = {
    400: "The request is wrong; the message names the value and what is allowed.",
    401: "The server wants a key: Authorization: Bearer KEY.",
    404: "There is no such thing.",
    413: "The body is too large.",
    429: "Too many pictures are in flight; try again after Retry-After seconds.",
    500: "A fault of the server; its log has the details.",
    503: "The model is loading, the server is stopping, or the engine is gone.",
}
ALWAYS = (401, 500)
"""Of every route; `install` takes 401 from those that need no key."""


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    error: ErrorDetail


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route that can answer these statuses."""
    return {
        status: {"model": ErrorBody, "description": DESCRIPTIONS[status]} for status in sorted({*statuses, *ALWAYS})
    }


PICTURES = errors(400, 404, 413, 429, 503)
"""Errors of a route that makes pictures."""


def events(*names: str) -> dict[str, Any]:
    """The content of a stream of server-sent events, each with a JSON object as its data."""
    data = {"type": "string", "contentMediaType": "application/json"}
    properties = {"event": {"type": "string", "enum": [*names, "error"]}, "data": data}
    schema = {"type": "object", "properties": properties, "required": ["event", "data"]}
    return {"text/event-stream": {"schema": schema}}


def install(app: FastAPI, needs_key: bool) -> None:
    """Makes the app describe itself with its keys and without FastAPI's own validation error."""

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
                    if needs_key and path not in OPEN_PATHS:
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
