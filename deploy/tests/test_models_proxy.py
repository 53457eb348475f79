"""HAProxy in front of two models: each request reaches the server of its model."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from deploy.tests.proxy import CONFIG, free_ports
from fastapi import FastAPI, Request
from tests.helpers.app_on_a_port import serve
from tests.helpers.waiting import until

CLASS = "llamagen-demo-class"
IMAGE = ("image.png", b"\x89PNG\x00\x01" * 1000, "image/png")


def server(name: str) -> FastAPI:
    """A server whose replies have its name and the size of what it got."""
    app = FastAPI(openapi_url=None)

    @app.api_route("/{path:path}", methods=["GET", "POST"])
    async def reply(path: str, request: Request) -> dict[str, Any]:
        return {"server": name, "path": path, "bytes": len(await request.body())}

    return app


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """A client of the proxy in front of a text and a class model."""
    [port] = free_ports(1)
    with ExitStack() as stack:
        environment = {"PROXY_BIND": f"127.0.0.1:{port}"}
        for name in ("text", "class"):
            environment[f"{name.upper()}_SERVER"] = stack.enter_context(serve(server(name))).removeprefix("http://")
        command = ["haproxy", "-C", str(CONFIG), "-f", "models.cfg"]
        process = subprocess.Popen(command, env=os.environ | environment)  # noqa: ASYNC220 - it returns at once
        stack.callback(process.wait)
        stack.callback(process.kill)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:

            async def answers() -> bool:
                assert process.poll() is None
                try:
                    return (await client.get("/v1/models")).status_code == 200
                except httpx.TransportError:
                    return False

            await until(answers)
            yield client


async def test_the_list_has_both_models(client: httpx.AsyncClient) -> None:
    listed = (await client.get("/v1/models")).json()["data"]
    assert [model["id"] for model in listed] == [model["root"] for model in listed] == ["llamagen-demo", CLASS]


@pytest.mark.parametrize(
    ("method", "path", "content", "name"),
    [
        ("POST", "/generate", {"json": {"class_id": 3, "model": CLASS}}, "class"),
        ("POST", "/v1/images/generations", {"json": {"model": "llamagen-demo", "prompt": CLASS}}, "text"),
        ("POST", "/generate", {"json": {"prompt": "a red circle"}}, "text"),
        ("POST", "/v1/images/edits", {"data": {"model": CLASS, "n": "1"}, "files": {"image": IMAGE}}, "class"),
        ("POST", "/v1/images/edits", {"data": {"model": "llamagen-demo"}, "files": {"image": IMAGE}}, "text"),
        ("GET", f"/v1/models/{CLASS}", {"params": {"labels": ""}}, "class"),
        ("GET", "/v1/models/llamagen-demo", {}, "text"),
        ("GET", "/class/images/a.png", {}, "class"),
        ("GET", "/text/images/a.png", {}, "text"),
        ("GET", "/", {}, "text"),
        ("GET", "/ready", {}, "text"),
    ],
)
async def test_a_request_reaches_the_server_of_its_model(
    client: httpx.AsyncClient, method: str, path: str, content: dict[str, Any], name: str
) -> None:
    request = client.build_request(method, path, **content)
    reply = (await client.send(request)).json()
    assert reply == {"server": name, "path": path[1:], "bytes": len(await request.aread())}


def test_the_configuration_is_valid_without_warnings() -> None:
    command = ["haproxy", "-C", CONFIG, "-c", "-f", "models.cfg"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
