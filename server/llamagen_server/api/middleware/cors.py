"""Pages of other origins that may call this server from a browser (CORS). Without any, browsers refuse them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

EXPOSED = ("x-request-id", "retry-after", "x-seed")
"""Headers of replies that scripts of those pages may read."""

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_DEFAULT_PORT = re.compile(r"http:.*:80|https:.*:443")


@dataclass(frozen=True)
class Cors:
    """What pages of other origins may do, by vLLM's flags of these names. ``*`` stands for all."""

    allowed_origins: tuple[str, ...] = ()
    allowed_methods: tuple[str, ...] = ("*",)
    allowed_headers: tuple[str, ...] = ("*",)
    allow_credentials: bool = False
    """Whether browsers may send cookies and certificates along. The keys of this server need neither."""


def read_cors(origins: Sequence[str], methods: Sequence[str], headers: Sequence[str], credentials: bool) -> Cors:
    """Reads the flags. Each text is a value, or a list in JSON as for vLLM's flags; no method or header means all.

    Raises:
        ValueError: a value is not written as browsers send it, or every page could act as its visitors.
    """
    allowed = _values("--allowed-origins", origins, _ORIGIN, "SCHEME://HOST[:PORT] in lower case, without a path")
    for origin in allowed:
        if _DEFAULT_PORT.fullmatch(origin):
            raise ValueError(f"--allowed-origins is {origin!r}, but browsers leave out the default port")
    if credentials and "*" in allowed:
        raise ValueError("--allow-credentials needs the origins by name: --allowed-origins must not be *")
    return Cors(
        allowed,
        tuple(name.upper() for name in _values("--allowed-methods", methods, _NAME, "a method")) or ("*",),
        _values("--allowed-headers", headers, _NAME, "the name of a header") or ("*",),
        credentials,
    )


def _values(flag: str, texts: Sequence[str], pattern: re.Pattern[str], what: str) -> tuple[str, ...]:
    values = [value for text in texts for value in (_read_list(flag, text) if text.startswith("[") else [text])]
    for value in values:
        if value != "*" and not pattern.fullmatch(value):
            raise ValueError(f"{flag} is {value!r}, must be * or {what}")
    return tuple(values)


def _read_list(flag: str, text: str) -> list[str]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(isinstance(value, str) for value in found):
        raise ValueError(f"{flag} is {text!r}, must be a value or a list of them in JSON")
    return found


def install_cors(app: FastAPI, cors: Cors) -> None:
    """Adds the middleware outside all others so far: a preflight carries no key, and errors need the headers too."""
    if cors.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=cors.allowed_origins,
            allow_methods=cors.allowed_methods,
            allow_headers=cors.allowed_headers,
            allow_credentials=cors.allow_credentials,
            expose_headers=EXPOSED,
        )
