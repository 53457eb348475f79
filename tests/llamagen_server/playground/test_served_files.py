"""The playground's files over HTTP."""

from __future__ import annotations

import re

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from llamagen_server.api.middleware.lenient_requests import LenientRequests
from llamagen_server.api.routes import playground
from llamagen_server.api.static_files import TYPES


@pytest.fixture(scope="module")
def client() -> TestClient:
    app = FastAPI()
    app.include_router(playground.router)
    app.add_middleware(LenientRequests)
    return TestClient(app)


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/playground/app.js", "text/javascript; charset=utf-8"),
        ("/playground/base.css", "text/css; charset=utf-8"),
        ("/playground/icon.svg", "image/svg+xml"),
        ("/playground/examples_text.json", "application/json"),
        ("/playground/examples_text.webp", "image/webp"),
    ],
)
def test_file_has_media_type_security_policy_and_etag(client: TestClient, path: str, media_type: str) -> None:
    reply = client.get(path)
    assert (reply.status_code, reply.headers["content-type"]) == (200, media_type)
    assert reply.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
    assert reply.headers["cache-control"] == "no-cache"
    again = client.get(path, headers={"if-none-match": reply.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.head(path).headers["content-length"] == reply.headers["content-length"]


@pytest.mark.parametrize("name", ["nothing.js", "..%2fapi%2fapp.py", "%2e%2e", "app.py"])
def test_other_files_are_not_served(client: TestClient, name: str) -> None:
    assert client.get(f"/playground/{name}").status_code == 404


def test_page_is_not_in_the_openapi_schema(client: TestClient) -> None:
    assert client.get("/openapi.json").json()["paths"] == {}


def test_page_loads_nothing_from_other_hosts() -> None:
    files = [file for file in playground.FOLDER.iterdir() if file.suffix in TYPES]
    assert files
    for file in files:
        if file.suffix == ".webp":
            continue
        addresses = re.findall(r"(?:https?:)?//[\w.-]+\.\w+", file.read_text())
        assert set(addresses) <= {"http://www.w3.org"}, file.name


def test_every_file_is_used(client: TestClient) -> None:
    """No file is left over from an earlier version of the page."""
    files = list(playground.FOLDER.iterdir())
    sources = [file.read_text() for file in files if file.suffix != ".webp"]
    used = {name for text in sources for name in re.findall(r'"(?:\./|playground/)([\w.]+)"', text)}
    assert {file.name for file in files} == used | {"index.html"}
