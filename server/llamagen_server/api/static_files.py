"""Files of the server's own pages, sent with an ETag and the page's security headers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from fastapi import Header, HTTPException, Response

TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".webp": "image/webp",
}

IfNoneMatch = Annotated[str, Header()]
"""A list of tags, each perhaps with W/ before it."""


def send_file(folder: Path, name: str, known: str, page_headers: Mapping[str, str]) -> Response:
    """Returns a file of a folder.

    Args:
        known: the request's `IfNoneMatch`.

    Raises:
        HTTPException: 404, the folder has no such file of one of `TYPES`.
    """
    files = {path.name: path for path in folder.iterdir() if path.suffix in TYPES}
    if name not in files:  # no path is made of a name that a request has
        raise HTTPException(404)
    content = files[name].read_bytes()
    tag = f'"{hashlib.sha256(content).hexdigest()[:20]}"'
    headers = {"cache-control": "no-cache", **page_headers, "etag": tag}  # browsers revalidate, mostly with 304
    if tag in known:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=TYPES[files[name].suffix], headers=headers)
