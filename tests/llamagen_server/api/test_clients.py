"""Requests that real clients send, recorded by scripts/record_clients.py, replayed against the app.

A server for such clients has ``--size-policy resize --edit-without-mask whole`` and the names that they ask for.
DallEAPIWrapper of LangChain reads URLs only and cannot ask for them: it needs ``--default-response-format url``.
"""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from PIL import Image
from tests.helpers.app import client_of
from tests.helpers.image_files import read_b64

from llamagen_server.api.app import create_app
from llamagen_server.core.options import RequestPolicy, ResponseFormat

FOLDER = Path(__file__).parents[2] / "data" / "clients"
RECORDS = {file.stem: json.loads(file.read_text()) for file in sorted(FOLDER.glob("*.json"))}
WITH_MASK = ("litellm-edit", "openai-edit", "openai-edit-stream")


async def _send(record: dict[str, Any], text_app: FastAPI, response_format: ResponseFormat = "b64_json") -> Any:
    policy = RequestPolicy("resize", "whole", response_format)
    app = create_app("tiny", text_app.state.pipeline, aliases=("gpt-image-1", "dall-e-3"), policy=policy)
    content = json.dumps(record["json"]).encode() if "json" in record else base64.b64decode(record["body"])
    async with client_of(app) as client:
        reply = await client.request(record["method"], record["path"], content=content, headers=record["headers"])
        assert reply.status_code == 200, reply.text
        if response_format == "url":
            return Image.open(io.BytesIO((await client.get(reply.json()["data"][0]["url"])).content)).size
        return reply


def _events(reply: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: ")]


@pytest.mark.parametrize("name", RECORDS)
async def test_requests_of_clients_get_images_of_their_size(name: str, text_app: FastAPI) -> None:
    record = RECORDS[name]
    reply = await _send(record, text_app)
    if "stream" in name:
        events = _events(reply)
        kind = "image_edit" if "edit" in name else "image_generation"
        assert [event["type"] for event in events] == [f"{kind}.partial_image"] * 2 + [f"{kind}.completed"]
        images = [event["b64_json"] for event in events]
    else:
        images = [image["b64_json"] for image in reply.json()["data"]]
        assert len(images) == record.get("json", {}).get("n", 1)
    assert {read_b64(image).size for image in images} == {(1024, 1024)}
    requested = text_app.state.pipeline.engine.requests[0]
    assert len(requested.prefix_tokens) == (32 if name in WITH_MASK else 0)


async def test_langchain_gets_a_url(text_app: FastAPI) -> None:
    assert await _send(RECORDS["langchain-generate"], text_app, "url") == (1024, 1024)


def test_every_client_is_recorded_without_its_key() -> None:
    assert {name.partition("-")[0] for name in RECORDS} == {"ai", "langchain", "litellm", "openai"}
    assert not any("authorization" in record["headers"] for record in RECORDS.values())
