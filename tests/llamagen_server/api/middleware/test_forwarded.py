"""The server below a path prefix, and behind proxies that say which address their client used."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from llamagen_server.api.app import create_app
from llamagen_server.api.middleware.forwarded import check_trusted
from llamagen_server.api.paths import check_root_path

URL = {"prompt": "x", "response_format": "url"}
PROXY = {"x-forwarded-proto": "https", "x-forwarded-host": "images.example:8443", "x-forwarded-prefix": "/llamagen"}


def client_at(app: FastAPI, address: str = "127.0.0.1") -> httpx.AsyncClient:
    """A client that calls the app from an IP address."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=(address, 1234))
    return httpx.AsyncClient(transport=transport, base_url="http://server:8000")


async def url_of_an_image(client: httpx.AsyncClient, headers: dict[str, str], prefix: str = "") -> str:
    reply = await client.post(f"{prefix}/v1/images/generations", json=URL, headers=headers)
    assert reply.status_code == 200, reply.text
    url: str = reply.json()["data"][0]["url"]
    name = url.rpartition("/")[2]
    image = await client.get(f"{prefix}/images/{name}")
    assert (image.status_code, image.headers["content-type"]) == (200, "image/png")
    return url.removesuffix(name)


@pytest.mark.parametrize(
    ("trusted", "address", "headers", "expected"),
    [
        (["127.0.0.1"], "127.0.0.1", {}, "http://server:8000/images/"),
        (["127.0.0.1"], "127.0.0.1", PROXY, "https://images.example:8443/llamagen/images/"),
        (["10.0.0.0/8"], "10.1.2.3", {"x-forwarded-proto": "https"}, "https://server:8000/images/"),
        (["*"], "8.8.8.8", {"x-forwarded-proto": "https,http"}, "https://server:8000/images/"),
        (["*"], "8.8.8.8", {"x-forwarded-proto": "HTTPS , http"}, "https://server:8000/images/"),
        (["*"], "8.8.8.8", {"x-forwarded-proto": "javascript, https"}, "http://server:8000/images/"),
        (["*"], "8.8.8.8", {"x-forwarded-prefix": "/a/b/"}, "http://server:8000/a/b/images/"),
        (["127.0.0.1"], "10.1.2.3", PROXY, "http://server:8000/images/"),
        ([], "127.0.0.1", PROXY, "http://server:8000/images/"),
        (["*"], "8.8.8.8", {"x-forwarded-host": "inner, outer"}, "http://outer/images/"),
        (
            ["*"],
            "8.8.8.8",
            {"x-forwarded-host": "a/b", "x-forwarded-prefix": "//evil.example"},
            "http://server:8000/images/",
        ),
        (
            ["*"],
            "8.8.8.8",
            {"x-forwarded-proto": "javascript", "x-forwarded-prefix": "/a b"},
            "http://server:8000/images/",
        ),
    ],
)
async def test_urls_have_the_address_that_the_client_used(
    text_app: FastAPI, trusted: list[str], address: str, headers: dict[str, str], expected: str
) -> None:
    """LocalAI issues 10482 and 3095."""
    app = create_app("tiny", text_app.state.pipeline, trusted_proxies=trusted)
    async with client_at(app, address) as client:
        assert await url_of_an_image(client, headers) == expected


@pytest.mark.parametrize("stripped", [True, False])
async def test_a_root_path_works_whether_or_not_the_proxy_strips_it(text_app: FastAPI, stripped: bool) -> None:
    app = create_app("tiny", text_app.state.pipeline, ["key"], root_path="/llamagen")
    prefix = "" if stripped else "/llamagen"
    async with client_at(app) as client:
        key = {"x-api-key": "key"}
        assert await url_of_an_image(client, key, prefix) == "http://server:8000/llamagen/images/"
        for path, status in {
            "/": 200,
            "/health": 200,
            "/playground/app.js": 200,
            "/v1/models": 401,
            "/docs": 401,
        }.items():
            assert (await client.get(prefix + path)).status_code == status, path
        for path, limit in (("/v1/images/edits", 64), ("/generate", 1)):
            reply = await client.post(prefix + path, content=bytes(limit * 2**20 + 1), headers=key)
            assert (reply.status_code, f"more than {limit * 2**20} bytes" in reply.text) == (413, True)
        schema = (await client.get(f"{prefix}/openapi.json", headers=key)).json()
        assert schema["servers"] == [{"url": "/llamagen"}]


async def test_no_prefix_opens_a_closed_route(text_app: FastAPI) -> None:
    for root_path in ("/playground", "/images", "/health", "/v1", "/docs"):
        app = create_app("tiny", text_app.state.pipeline, ["key"], root_path=root_path, trusted_proxies=["*"])
        async with client_at(app) as client:
            for prefix in ("", root_path, root_path * 2):
                for headers in ({}, {"x-forwarded-prefix": "/images"}, {"x-forwarded-prefix": "/playground"}):
                    reply = await client.post(f"{prefix}/v1/images/generations", json=URL, headers=headers)
                    assert reply.status_code in (401, 404, 405), (root_path, prefix, headers)


def test_flags() -> None:
    assert [check_root_path(path) for path in ("", "/", "/a", "/a/b/")] == ["", "", "/a", "/a/b"]
    for path in ("a", "http://a", "/a b", "/a?b"):
        with pytest.raises(ValueError, match="--root-path is .*, must be a path such as /images-api"):
            check_root_path(path)
    for path in ("/v1", "/images/", "/docs/a"):
        with pytest.raises(ValueError, match="--root-path is .*, must not begin as routes of this server do: /v1, /im"):
            check_root_path(path)
    good: dict[str, Any] = {
        "": [],
        "127.0.0.1, ::1": ["127.0.0.1", "::1"],
        "10.0.0.0/8": ["10.0.0.0/8"],
        "*,::1": ["*"],
    }
    assert {text: check_trusted(text) for text in good} == good
    for text in ("proxy", "10.0.0.0/99", "10.0.0.1/8"):
        with pytest.raises(ValueError, match=f"--forwarded-allow-ips has '{text}', must be IP addresses or networks"):
            check_trusted(text)


@pytest.mark.parametrize("path", ["/docs/", "/llamagen/docs/", "/llamagen"])
async def test_redirects_keep_the_prefix(text_app: FastAPI, path: str) -> None:
    expected = "http://server:8000/llamagen/" if path == "/llamagen" else "http://server:8000/llamagen/docs"
    for app, headers in (
        (create_app("tiny", text_app.state.pipeline, root_path="/llamagen"), {}),
        (create_app("tiny", text_app.state.pipeline, trusted_proxies=["*"]), {"x-forwarded-prefix": "/llamagen"}),
    ):
        async with client_at(app) as client:
            reply = await client.get(path, headers=headers)
            assert (reply.status_code, reply.headers["location"]) == (307, expected)


@pytest.mark.parametrize("prefix", ["", "/llamagen"])
async def test_the_hint_at_the_right_path_has_the_prefix(text_app: FastAPI, prefix: str) -> None:
    app = create_app("tiny", text_app.state.pipeline, root_path="/llamagen")
    async with client_at(app) as client:
        reply = await client.post(f"{prefix}/images/generations", json={"prompt": "x"})
        assert reply.json()["error"]["message"].endswith("; POST /llamagen/v1/images/generations exists")
