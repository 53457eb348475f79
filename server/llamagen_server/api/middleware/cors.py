"""Pages of other origins that may call this server from a browser (CORS). Without any, browsers refuse them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

EXPOSED = ("x-request-id", "retry-after", "x-seed")
"""Headers of replies that scripts of those pages may read."""

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")


def check_origins(origins: Sequence[str]) -> tuple[str, ...]:
    """Returns the origins, in which ``*`` stands for all. One may be a list in JSON, as for vLLM's flag of that name.

    Raises:
        ValueError: one is not written as browsers send it, so it would never match.
    """
    origins = [origin for text in origins for origin in (_read_list(text) if text.startswith("[") else [text])]
    for origin in origins:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise ValueError(
                f"--allowed-origins is {origin!r}, must be * or SCHEME://HOST[:PORT] in lower case, without a path"
            )
        if (origin.startswith("http:") and origin.endswith(":80")) or (
            origin.startswith("https:") and origin.endswith(":443")
        ):
            raise ValueError(f"--allowed-origins is {origin!r}, but browsers leave out the default port")
    return tuple(origins)


def _read_list(text: str) -> list[str]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(isinstance(origin, str) for origin in found):
        raise ValueError(f"--allowed-origins is {text!r}, must be an origin or a list of them in JSON")
    return found


def install(app: FastAPI, origins: Sequence[str]) -> None:
    """Adds the middleware outside all others so far: a preflight carries no key, and errors need the headers too.

    Cookies are not allowed: keys are sent in headers, which a page must know to use them.
    """
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=EXPOSED,
        )
