"""``GET /``: the playground, a page to try the model in a browser, and its files."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Header, HTTPException, Response

from llamagen_server.api.middleware.security_headers import PLAYGROUND

router = APIRouter(include_in_schema=False)

FOLDER = Path(__file__).parents[2] / "playground"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
HEADERS = {
    "cache-control": "no-cache",  # browsers revalidate, mostly with 304
    **PLAYGROUND,
}

IfNoneMatch = Annotated[str, Header()]


@router.api_route("/", methods=["GET", "HEAD"])
def page(if_none_match: IfNoneMatch = "") -> Response:
    return _file("index.html", if_none_match)


@router.api_route("/playground/{name}", methods=["GET", "HEAD"])
def asset(name: str, if_none_match: IfNoneMatch = "") -> Response:
    return _file(name, if_none_match)


def _file(name: str, known: str) -> Response:
    files = {path.name: path for path in FOLDER.iterdir() if path.suffix in TYPES}
    if name not in files:  # no path is made of a name that a request has
        raise HTTPException(404)
    content = files[name].read_bytes()
    headers = {**HEADERS, "etag": f'"{hashlib.sha256(content).hexdigest()[:20]}"'}
    if headers["etag"] in known:  # a list of tags, each perhaps with W/ before it
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=TYPES[files[name].suffix], headers=headers)
