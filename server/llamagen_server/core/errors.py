"""Errors of a request. `llamagen_server.api.errors` turns them into replies."""

from __future__ import annotations

import reprlib
from typing import Any

_repr = reprlib.Repr()
_repr.maxlevel = 3  # the whole text of a deeply nested value could exceed the recursion limit
_repr.maxstring = _repr.maxother = 80


class InvalidRequestError(ValueError):
    """The request cannot be served. ``param`` names the offending field."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class OverloadedError(Exception):
    """The server has too much work to accept the request now."""

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds after which the request is worth another try."""


class DeadlineError(Exception):
    """The request was not finished within its timeout; its work was cancelled."""


class EngineError(Exception):
    """The engine failed on a request."""


class EngineStoppedError(EngineError):
    """The engine did not start, or is not running."""


def describe(error: Any) -> tuple[str, str | None]:
    """Returns the message of a pydantic validation error, in one line, and the name of the offending field."""
    if error["type"] == "json_invalid":
        return f"the body is not valid JSON: {error['ctx']['error']}", None
    param = ".".join(str(part) for part in error["loc"] if part != "body") or None
    if error["type"] == "extra_forbidden":
        return f"unknown field {param!r}", param
    if error["type"] == "value_error":  # raised by a validator of ours, with the whole message
        return str(error["ctx"]["error"]), getattr(error["ctx"]["error"], "param", param)
    if isinstance(error["input"], bytes):
        return "the body is not read as JSON: send it with the header content-type: application/json", None
    if error["type"] == "missing":
        return f"{param or 'the body'} is missing", param
    message = error["msg"][0].lower() + error["msg"][1:]
    value = _repr.repr(error["input"])
    return f"{param or 'the body'} is {value if len(value) <= 80 else value[:77] + '...'}: {message}", param
