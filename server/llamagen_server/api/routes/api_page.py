"""``GET /docs``: Swagger UI over the OpenAPI schema. Its files come from a package, so it works without internet."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter, Response

from llamagen_server.api.middleware.security_headers import API_PAGE
from llamagen_server.api.static_files import IfNoneMatch, send_file

router = APIRouter(include_in_schema=False)

FOLDER = Path(__file__).parents[2] / "api_page"
SWAGGER_UI = Path(str(files("fastapi_swagger") / "resources"))


@router.get("/docs")
def page(if_none_match: IfNoneMatch = "") -> Response:
    return send_file(FOLDER, "index.html", if_none_match, API_PAGE)


@router.get("/docs/{name}")
def asset(name: str, if_none_match: IfNoneMatch = "") -> Response:
    folder = FOLDER if name == "start.js" else SWAGGER_UI
    return send_file(folder, name, if_none_match, API_PAGE)
