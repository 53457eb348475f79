"""``/v1`` with the stock openai client and a fake engine."""

from __future__ import annotations

import base64
import io

import httpx
import openai
import pytest
from fastapi import FastAPI
from openai import AsyncOpenAI
from PIL import Image


@pytest.fixture
async def client(text_client: httpx.AsyncClient) -> AsyncOpenAI:
    return AsyncOpenAI(api_key="none", base_url="http://test/v1", http_client=text_client, max_retries=0)


async def test_generate(client: AsyncOpenAI, text_app: FastAPI) -> None:
    reply = await client.images.generate(
        model="tiny", prompt="a red circle", n=2, size="64x64", quality="high", extra_body={"cfg_scale": 3.0, "seed": 4}
    )
    assert reply.data is not None
    assert [Image.open(io.BytesIO(base64.b64decode(d.b64_json or ""))).size for d in reply.data] == [(64, 64)] * 2
    assert reply.usage is not None
    assert reply.usage.output_tokens == 128
    assert reply.usage.input_tokens_details.text_tokens == reply.usage.input_tokens > 0
    assert {(r.sampling.cfg_scale, r.sampling.seed) for r in text_app.state.pipeline.engine.requests} == {
        (3, 4),
        (3, 5),
    }


async def test_models(client: AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == ["tiny"]


async def test_errors_are_the_clients_own(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="size is '512x512', must be 'auto' or '64x64'") as bad:
        await client.images.generate(prompt="x", size="512x512")
    assert (bad.value.param, bad.value.type) == ("size", "invalid_request_error")
    with pytest.raises(openai.NotFoundError, match="model 'gpt-image-1' does not exist; this server has 'tiny'"):
        await client.images.generate(prompt="x", model="gpt-image-1")
    with pytest.raises(openai.BadRequestError, match="unknown field 'steps'"):
        await client.images.generate(prompt="x", extra_body={"steps": 3})
    with pytest.raises(openai.BadRequestError, match="response_format is 'url'"):
        await client.images.generate(prompt="x", response_format="url")
