"""Keys: where they come from, and the middleware that refuses requests without one."""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from llamagen_server.api.errors import ApiError

OPEN_PATHS = ("/", "/health", "/ready", "/ping", "/version", "/metrics")
OPEN_PREFIX = "/playground/"
"""Files of the playground page, which asks for the key itself."""


def collect_keys(given: Iterable[str] = (), files: Iterable[Path] = ()) -> list[str]:
    """Returns the keys given, that of the variable LLAMAGEN_API_KEY, and those of files.

    A file has one key per line, as a mounted secret does; empty lines are skipped. Messages never contain a key.

    Raises:
        ValueError: a key is empty, or has a character that a header cannot carry; a file cannot be read or has no key.
    """
    keys = [*given, *filter(None, [os.environ.get("LLAMAGEN_API_KEY")])]
    if not all(_is_key(key) for key in keys):
        raise ValueError("an API key must be printable ASCII without spaces, and not empty")
    return [*keys, *(key for file in files for key in _read_keys(file))]


def _is_key(key: str) -> bool:
    return key.isascii() and key.isprintable() and key != "" and " " not in key


def _read_keys(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise ValueError(f"the key file {path} cannot be read: {reason}") from None
    for number, key in enumerate(lines, 1):
        if key and not _is_key(key):
            raise ValueError(f"the key file {path}, line {number}: a key must be printable ASCII without spaces")
    if not any(lines):
        raise ValueError(f"the key file {path} contains no key")
    return [key for key in lines if key]


class ApiKeys:
    """Requires ``Authorization: Bearer KEY`` with one of the keys, on every route that is not open."""

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self.app = app
        self.keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._allowed(scope):
            message = "a key is needed: send the header Authorization: Bearer KEY with a key of this server"
            raise ApiError(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})
        await self.app(scope, receive, send)

    def _allowed(self, scope: Scope) -> bool:
        if scope["path"] in OPEN_PATHS or scope["path"].startswith(OPEN_PREFIX):
            return True
        scheme, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        token = given.strip().encode()
        return scheme.lower() == "bearer" and any(hmac.compare_digest(token, key) for key in self.keys)
