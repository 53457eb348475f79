"""Keys: where they come from, and the middleware that refuses requests without one."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
from collections.abc import Iterable
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from llamagen_server.api.errors import ApiError
from llamagen_server.api.paths import route_path

logger = logging.getLogger(__name__)

OPEN_PATHS = ("/", "/health", "/ready", "/ping", "/version", "/metrics")
OPEN_PREFIXES = ("/playground/", "/images/")
"""Files of the playground page, which asks for the key itself; images by URL, whose names nobody can guess."""

HEADERS = "Authorization: Bearer KEY, x-api-key: KEY or api-key: KEY"
"""Headers that carry a key: OpenAI's and vLLM's, Anthropic's, Azure's."""


class Keyring:
    """The keys of a server. Without any, no request needs one. Keys are kept as hashes and never logged."""

    def __init__(self, keys: Iterable[str] = (), files: Iterable[Path] = ()) -> None:
        """``files`` have one key per line, as a mounted secret does; empty lines are skipped.

        Raises:
            ValueError: a file cannot be read, has no key, or has one that a header cannot carry.
        """
        self.files = tuple(files)
        self._given = tuple(keys)
        self._digests = self._read()

    @classmethod
    def collect(cls, given: Iterable[str] = (), files: Iterable[Path] = ()) -> Keyring:
        """Returns the keys given, that of the variable LLAMAGEN_API_KEY, and those of files.

        Raises:
            ValueError: a key is empty or a header cannot carry it; a file is wrong. The message never contains a key.
        """
        keys = [*given, *filter(None, [os.environ.get("LLAMAGEN_API_KEY")])]
        if not all(_is_key(key) for key in keys):
            raise ValueError("an API key must be printable ASCII without spaces, and not empty")
        return cls(keys, files)

    def __bool__(self) -> bool:
        return bool(self._digests)

    def reload(self) -> None:
        """Reads the files again. If one is wrong, the keys stay as they are, and one line is logged."""
        try:
            self._digests = self._read()
        except ValueError as error:
            logger.error("the keys stay as they are: %s", error)
        else:
            logger.info("the key files were read again: %d keys", len(self._digests))

    def client(self, token: bytes) -> str | None:
        """Returns the id of the key that a request carries, 12 hexadecimal digits of its hash; None if it is wrong.

        Every key is compared, each in constant time, so that the time of a reply discloses nothing about them.
        """
        given, found = hashlib.sha256(token).digest(), None
        for digest in self._digests:
            if hmac.compare_digest(given, digest):
                found = digest.hex()[:12]
        return found

    def _read(self) -> list[bytes]:
        keys = [*self._given, *(key for file in self.files for key in _read_keys(file))]
        return [hashlib.sha256(key.encode()).digest() for key in keys]


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
    """Refuses requests without a key on every route that is not open, if the keyring has any.

    ``scope["state"]["client"]`` is the id of the request's key, as `Keyring.client` returns it; "" without a key.
    """

    def __init__(self, app: ASGIApp, keyring: Keyring) -> None:
        self.app, self.keyring = app, keyring

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            client = self._client(Headers(scope=scope))
            if self.keyring and client is None and not is_open(route_path(scope)):
                message = f"a key is needed: send {HEADERS} with a key of this server"
                raise ApiError(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})
            scope.setdefault("state", {})["client"] = client or ""
        await self.app(scope, receive, send)

    def _client(self, headers: Headers) -> str | None:
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        tokens = [bearer.strip() if scheme.lower() == "bearer" else ""]
        tokens += [headers.get(name, "").strip() for name in ("x-api-key", "api-key")]
        clients = [self.keyring.client(token.encode()) for token in tokens]
        return next(filter(None, clients), None)


def is_open(path: str) -> bool:
    """Whether requests for a path need no key."""
    return path in OPEN_PATHS or path.startswith(OPEN_PREFIXES)
