"""Requests in other forms than OpenAI's clients send: what is read, and what is refused by name."""

from __future__ import annotations

import base64
import gzip
import json
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from PIL import Image
from tests.helpers.app import client_of
from tests.helpers.image_files import png, read_b64

from llamagen_server.api.app import create_app
from llamagen_server.core.options import RequestPolicy

GENERATIONS = "/v1/images/generations"


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/tiny", "/health", "/ready", "/"])
async def test_head_is_answered_as_get_without_a_body(text_client: httpx.AsyncClient, path: str) -> None:
    head, get = await text_client.head(path), await text_client.get(path)
    assert (head.status_code, head.content) == (get.status_code, b"") == (200, b"")
    assert head.headers["content-length"] == get.headers["content-length"]


async def test_head_needs_a_key_too(text_app: FastAPI) -> None:
    async with client_of(create_app("tiny", text_app.state.pipeline, ["secret"])) as client:
        for path in ("/v1/models", "//v1/models", "/v1/models/"):
            assert (await client.head(path)).status_code == (await client.get(path)).status_code == 401


@pytest.mark.parametrize("path", ["/v1/images/generations/", "//v1/images/generations", "/v1//images/generations"])
async def test_slashes_of_a_base_url(text_client: httpx.AsyncClient, path: str) -> None:
    reply = await text_client.post(f"http://test{path}", json={"prompt": "x"})
    assert reply.status_code == 200
    assert (await text_client.get("/v1/models/")).json() == (await text_client.get("/v1/models")).json()


@pytest.mark.parametrize(
    ("path", "right"),
    [
        ("/images/generations", "POST /v1/images/generations exists"),
        ("/v1/v1/images/generations", "POST /v1/images/generations exists"),
        ("/v1/generate", "POST /generate exists"),
    ],
)
async def test_a_wrong_prefix_is_named(text_client: httpx.AsyncClient, path: str, right: str) -> None:
    reply = await text_client.post(path, json={"prompt": "x"})
    assert reply.status_code in (404, 405)
    assert reply.json()["error"]["message"].endswith(right)
    assert "exists" not in (await text_client.get("/v1/nothing")).json()["error"]["message"]


@pytest.mark.parametrize(("written", "file"), [("jpg", "JPEG"), ("PNG", "PNG"), ("WebP", "WEBP")])
@pytest.mark.parametrize("path", [GENERATIONS, "/generate"])
async def test_names_of_file_formats(text_client: httpx.AsyncClient, written: str, file: str, path: str) -> None:
    reply = (await text_client.post(path, json={"prompt": "x", "output_format": written})).json()
    [image] = reply.get("data") or reply["images"]
    assert read_b64(image["b64_json"]).format == file


@pytest.mark.parametrize("size", ["256X128", "256*128", "256×128"])
async def test_spellings_of_a_size(text_app: FastAPI, size: str) -> None:
    app = create_app("tiny", text_app.state.pipeline, policy=RequestPolicy(size="resize"))
    async with client_of(app) as client:
        reply = (await client.post(GENERATIONS, json={"prompt": "x", "size": size})).json()
    assert reply["size"] == "256x128"
    assert read_b64(reply["data"][0]["b64_json"]).size == (256, 128)


@pytest.mark.parametrize("size", ["64*64", "64X64"])
async def test_spellings_of_the_models_own_size(text_client: httpx.AsyncClient, size: str) -> None:
    assert (await text_client.post(GENERATIONS, json={"prompt": "x", "size": size})).json()["size"] == "64x64"


async def test_booleans_as_text(text_client: httpx.AsyncClient) -> None:
    plain = await text_client.post(GENERATIONS, json={"prompt": "x", "stream": "False"})
    assert plain.headers["content-type"] == "application/json"
    stream = await text_client.post(GENERATIONS, json={"prompt": "x", "stream": "true"})
    assert stream.headers["content-type"].startswith("text/event-stream")
    wrong = await text_client.post(GENERATIONS, json={"prompt": "x", "stream": "yes"})
    assert wrong.json()["error"]["message"] == "stream is 'yes': input should be a valid boolean"


async def test_compressed_bodies_are_refused_by_name(text_client: httpx.AsyncClient) -> None:
    headers = {"content-type": "application/json", "content-encoding": "GZIP"}
    reply = await text_client.post(GENERATIONS, content=gzip.compress(b'{"prompt": "x"}'), headers=headers)
    assert reply.status_code == 415
    assert reply.json()["error"]["message"] == "content-encoding is 'gzip': bodies must be sent uncompressed"
    headers["content-encoding"] = "identity"
    assert (await text_client.post(GENERATIONS, content=b'{"prompt": "x"}', headers=headers)).status_code == 200


async def test_json_in_another_encoding(text_client: httpx.AsyncClient) -> None:
    headers = {"content-type": "application/json"}
    reply = await text_client.post(GENERATIONS, content='{"prompt": "café"}'.encode("latin-1"), headers=headers)
    assert reply.status_code == 400
    assert reply.json()["error"]["message"] == f"POST {GENERATIONS}: the body is not JSON in UTF-8"


def _data_url(image: Image.Image) -> str:
    return "data:image/png;base64," + base64.b64encode(png(image)).decode()


@pytest.mark.parametrize("form", ["image", "image list", "images of text", "url object"])
async def test_other_forms_of_an_edit_as_json(text_client: httpx.AsyncClient, text_app: FastAPI, form: str) -> None:
    mask = Image.new("RGBA", (64, 64), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 32, 64, 64))
    image, masked = _data_url(Image.new("RGB", (64, 64))), _data_url(mask)
    body: dict[str, Any] = {
        "image": {"image": image, "mask": masked},
        "image list": {"image": [image], "mask": {"image_url": masked}},
        "images of text": {"images": [image], "mask": masked},
        "url object": {"images": [{"image_url": {"url": image}}], "mask": {"image_url": {"url": masked}}},
    }[form]
    reply = await text_client.post("/v1/images/edits", json={"prompt": "x", **body})
    assert reply.status_code == 200, reply.text
    assert len(text_app.state.pipeline.engine.requests[0].prefix_tokens) == 32


@pytest.mark.parametrize("image", [5, {}, "http://example.com/a.png", ["a", "b"], None])
async def test_wrong_images_of_an_edit_as_json(text_client: httpx.AsyncClient, image: Any) -> None:
    reply = await text_client.post(
        "/v1/images/edits",
        content=json.dumps({"prompt": "x", "image": image}),
        headers={"content-type": "application/json"},
    )
    assert reply.status_code == 400
    assert "images" in reply.json()["error"]["message"]


async def test_a_file_of_another_name_is_refused_by_name(text_client: httpx.AsyncClient) -> None:
    files = {"images": ("a.png", png(Image.new("RGB", (64, 64))))}
    reply = await text_client.post("/v1/images/edits", data={"prompt": "x"}, files=files)
    assert reply.json()["error"]["message"] == "unknown file 'images', must be one of image, mask, markup"
