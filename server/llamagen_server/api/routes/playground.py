"""``GET /``: the playground, a page to try the model in a browser, and its files."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Response

from llamagen_server.api.middleware.security_headers import PLAYGROUND
from llamagen_server.api.static_files import IfNoneMatch, send_file

router = APIRouter(include_in_schema=False)

FOLDER = Path(__file__).parents[2] / "playground"


@router.get("/")
def page(if_none_match: IfNoneMatch = "") -> Response:
    return send_file(FOLDER, "index.html", if_none_match, PLAYGROUND)


@router.get("/playground/{name}")
def asset(name: str, if_none_match: IfNoneMatch = "") -> Response:
    return send_file(FOLDER, name, if_none_match, PLAYGROUND)
