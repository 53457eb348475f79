"""Flags of ``llamagen serve``: the real command line and app, with a fake engine and no running server."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from PIL import Image
from tests.helpers.app import make_app
from tests.helpers.image_files import png

from llamagen_server.cli import main as cli
from llamagen_server.core.options import RequestPolicy
from llamagen_server.serving import http

PAGE = "https://a.example"
FLAGS = {
    "--served-model-name": ["mine", "gpt-image-1", "dall-e-3"],
    "--size-policy": ["resize"],
    "--edit-without-mask": ["whole"],
    "--default-response-format": ["url"],
    "--root-path": ["/image-api"],
    "--forwarded-allow-ips": ["10.0.0.0/8"],
    "--allowed-origins": [f'["{PAGE}"]'],
    "--allowed-methods": ['["GET"]'],
    "--allowed-headers": ['["x-api-key"]'],
    "--allow-credentials": [],
}


def app_of(monkeypatch: pytest.MonkeyPatch, model_dir: Path, flags: list[str]) -> FastAPI:
    """Returns the app that the command would serve, with the pipeline of a fake engine."""
    apps: list[FastAPI] = []

    class Service:
        def __init__(self, name: str, listener: Any, load: Any, app: FastAPI, options: Any) -> None:
            apps.append(app)

        async def run(self) -> None:
            pass

    monkeypatch.setattr(http, "_Service", Service)
    cli.main(["serve", str(model_dir), "--port", "0", *flags])
    [app] = apps
    app.state.pipeline = make_app(model_dir).state.pipeline
    return app


def test_flags_for_clients_and_proxies_reach_the_app(monkeypatch: pytest.MonkeyPatch, text_model_dir: Path) -> None:
    app = app_of(monkeypatch, text_model_dir, [word for flag, values in FLAGS.items() for word in (flag, *values)])

    async def check() -> None:
        transport = httpx.ASGITransport(app, client=("10.1.2.3", 1234))
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            models = (await client.get("/v1/models")).json()["data"]
            assert [model["id"] for model in models] == FLAGS["--served-model-name"]
            body = {"prompt": "a red circle", "model": "dall-e-3", "size": "96x48"}
            made = await client.post("/v1/images/generations", json=body, headers={"x-forwarded-proto": "https"})
            assert made.status_code == 200, made.text
            url = made.json()["data"][0]["url"]
            assert url.startswith("https://server/image-api/images/")
            assert Image.open(io.BytesIO((await client.get(url)).content)).size == (96, 48)
            files = {"image": png(Image.new("RGB", (64, 64)))}
            edit = await client.post("/v1/images/edits", files=files, data={"prompt": "a red circle"})
            assert (edit.status_code, edit.json()["data"][0].keys()) == (200, made.json()["data"][0].keys())
            asked = {"access-control-request-method": "GET", "access-control-request-headers": "x-api-key"}
            preflight = await client.options("/v1/models", headers={"origin": PAGE, **asked})
            assert preflight.status_code == 200
            allowed = [
                preflight.headers[f"access-control-allow-{what}"] for what in ("origin", "methods", "credentials")
            ]
            assert allowed == [PAGE, "GET", "true"]
            assert "x-api-key" in preflight.headers["access-control-allow-headers"]

    asyncio.run(check())


def test_without_flags_nothing_is_done_that_a_client_did_not_ask_for(
    monkeypatch: pytest.MonkeyPatch, text_model_dir: Path
) -> None:
    app = app_of(monkeypatch, text_model_dir, [])
    assert app.state.policy == RequestPolicy()
    assert app.state.model_names == (text_model_dir.name,)
    assert app.root_path == ""
