"""``/v1`` with the stock openai client and a fake engine."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai import AsyncOpenAI
from PIL import Image, ImageOps
from tests.helpers.app import client_of
from tests.helpers.image_files import read_b64

from llamagen_server.api.app import create_app
from llamagen_server.core.options import Limits, RequestPolicy

OTHERS = "a server with --size-policy resize has others"


async def test_generate(text_openai: AsyncOpenAI, text_app: FastAPI) -> None:
    reply = await text_openai.images.generate(
        model="tiny", prompt="a red circle", n=2, size="64x64", quality="high", extra_body={"cfg_scale": 3.0, "seed": 4}
    )
    assert reply.data is not None
    assert [read_b64(d.b64_json or "").size for d in reply.data] == [(64, 64)] * 2
    assert reply.usage is not None
    assert reply.usage.output_tokens == 128
    assert reply.usage.input_tokens_details.text_tokens == reply.usage.input_tokens > 0
    assert {(r.sampling.cfg_scale, r.sampling.seed) for r in text_app.state.pipeline.engine.requests} == {
        (3, 4),
        (3, 5),
    }


async def test_the_prompt_of_a_class_model_is_the_name_of_a_class(
    class_openai: AsyncOpenAI, class_app: FastAPI
) -> None:
    pipeline = class_app.state.pipeline
    pipeline.model = dataclasses.replace(pipeline.model, labels={5: ["golden retriever"]})
    await class_openai.images.generate(prompt="Golden_Retriever")
    assert [request.condition for request in pipeline.engine.requests] == [5]
    with pytest.raises(openai.BadRequestError, match="is not a label of this model; nearest: golden retriever"):
        await class_openai.images.generate(prompt="golden retreiver")


async def test_guidance_scale_is_an_alias_of_cfg_scale(text_openai: AsyncOpenAI, text_app: FastAPI) -> None:
    await text_openai.images.generate(prompt="x", extra_body={"guidance_scale": 2.5, "cfg_scale": None})
    assert text_app.state.pipeline.engine.requests[0].sampling.cfg_scale == 2.5
    with pytest.raises(openai.BadRequestError, match="guidance_scale and cfg_scale are both given: give one"):
        await text_openai.images.generate(prompt="x", extra_body={"guidance_scale": 2.5, "cfg_scale": 2.5})


async def test_logprobs(text_openai: AsyncOpenAI) -> None:
    reply = await text_openai.images.generate(prompt="x", extra_body={"logprobs": True})
    assert reply.data is not None
    assert reply.data[0].model_dump()["logprobs"] == [-1.0] * 64
    stream = await text_openai.images.generate(prompt="x", stream=True, extra_body={"logprobs": True})
    [completed] = [event async for event in stream]
    assert completed.model_dump()["logprobs"] == [-1.0] * 64


async def test_requests_of_aiperf(text_client: httpx.AsyncClient) -> None:
    """NVIDIA AIPerf 0.13 sends these fields with ``--endpoint-type image_generation``, and reads these."""
    body = {"prompt": " unto their hus", "model": "tiny", "response_format": "b64_json", "n": 1}
    reply = (await text_client.post("/v1/images/generations", json=body | {"stream": False})).json()
    assert reply["data"][0]["b64_json"]
    assert reply["usage"]["input_tokens"] + reply["usage"]["output_tokens"] == reply["usage"]["total_tokens"]
    stream = await text_client.post("/v1/images/generations", json=body | {"stream": True, "partial_images": 2})
    events = [json.loads(line[6:]) for line in stream.text.splitlines() if line.startswith("data: ")]
    assert [event.get("partial_image_index") for event in events] == [0, 1, None]
    for event in events:
        assert event["b64_json"]
        assert {"size", "quality", "output_format", "background"} < event.keys()
    assert events[-1]["usage"] == reply["usage"]


async def test_models(text_openai: AsyncOpenAI) -> None:
    assert [model.id async for model in text_openai.models.list()] == ["tiny"]


async def test_the_client_raises_its_own_exceptions(text_openai: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="size is '512x512', must be 'auto' or '64x64'") as bad:
        await text_openai.images.generate(prompt="x", size="512x512")
    assert (bad.value.param, bad.value.type) == ("size", "invalid_request_error")
    with pytest.raises(openai.NotFoundError, match="model 'gpt-image-1' does not exist; this server has 'tiny'"):
        await text_openai.images.generate(prompt="x", model="gpt-image-1")
    with pytest.raises(openai.BadRequestError, match="unknown field 'steps'"):
        await text_openai.images.generate(prompt="x", extra_body={"steps": 3})
    for response_format, stream in (("file", False), ("url", True)):
        with pytest.raises(openai.BadRequestError, match=f"response_format is '{response_format}'"):
            await text_openai.images.generate(prompt="x", stream=stream, response_format=response_format)  # type: ignore[call-overload]
    with pytest.raises(openai.NotFoundError, match="/v1/images/variations: Not Found"):
        await text_openai.post("/images/variations", cast_to=object, body={})


async def test_fields_that_openai_knows_are_ignored(text_openai: AsyncOpenAI) -> None:
    reply = await text_openai.images.generate(
        prompt="x",
        background="opaque",
        complexity="low",
        frame_count=1,
        frame_duration_ms=40,
        moderation="low",
        quality="high",
        safety_identifier="me",
        style="vivid",
        svg={"model": "x"},
        user="me",
        output_compression=None,
    )
    assert reply.data is not None
    assert len(reply.data) == 1


async def test_urls(text_client: httpx.AsyncClient) -> None:
    body = {"prompt": "x", "seed": 3, "output_format": "webp"}
    url, b64_json = [
        (await text_client.post("/v1/images/generations", json=body | {"response_format": kind})).json()["data"][0][
            kind
        ]
        for kind in ("url", "b64_json")
    ]
    assert url.startswith("http://test/images/")
    reply = await text_client.get(url)
    assert reply.headers["content-type"] == "image/webp"
    assert reply.content == base64.b64decode(b64_json)
    gone = await text_client.get("/images/abc.png")
    assert (gone.status_code, gone.json()["error"]["message"]) == (404, "image 'abc.png' does not exist or has expired")


async def test_images_beyond_the_limit_get_429(text_openai: AsyncOpenAI, text_app: FastAPI) -> None:
    text_app.state.pipeline.admission.limits = Limits(max_in_flight=3)
    with pytest.raises(openai.BadRequestError, match="n is 4, must be at most 3, the server's limit"):
        await text_openai.images.generate(prompt="x", n=4)
    engine = text_app.state.pipeline.engine
    engine.go_on.clear()
    tasks = [asyncio.create_task(text_openai.images.generate(prompt="x")) for _ in range(5)]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)  # a refused one: no other can end yet
    engine.go_on.set()
    replies = await asyncio.gather(*tasks, return_exceptions=True)
    refused = [reply for reply in replies if isinstance(reply, openai.RateLimitError)]
    assert len(refused) == 2
    assert str(refused[0]).find("3 images are in flight, at most 3 are allowed") >= 0
    assert refused[0].response.headers["retry-after"] == "1"
    assert refused[0].request_id
    await text_openai.images.generate(prompt="x", n=3)  # there is room again


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.text(max_size=20) | st.from_regex(r"\d{1,4}x\d{1,4}") | st.sampled_from(["AUTO", "64 x 64", "064x64", " auto"])
)
async def test_any_other_size_is_refused_by_name(text_client: httpx.AsyncClient, size: str) -> None:
    reply = await text_client.post("/v1/images/generations", json={"prompt": "x", "size": size})
    if size in ("auto", "64x64"):
        assert reply.status_code == 200
    else:
        assert reply.status_code == 400
        assert reply.json()["error"]["message"] == f"size is {size!r}, must be 'auto' or '64x64'; {OTHERS}"


@pytest.fixture
async def lenient(text_app: FastAPI) -> AsyncIterator[AsyncOpenAI]:
    """A client of a server that accepts what other servers' clients send."""
    policy = RequestPolicy(size="resize", edit_without_mask="whole", response_format="url")
    names = ["gpt-image-1", "dall-e-3"]
    app = create_app("tiny", text_app.state.pipeline, aliases=names, policy=policy)
    async with client_of(app) as client:
        yield AsyncOpenAI(api_key="none", base_url="http://test/v1", http_client=client, max_retries=0)


@pytest.mark.parametrize("size", ["512x512", "1024x1024", "1536x1024", "64x64", "auto", "16x2048", "100x50"])
async def test_any_size_can_be_resized_to(lenient: AsyncOpenAI, size: str) -> None:
    body: dict[str, Any] = {"prompt": "x", "size": size, "extra_body": {"seed": 4}, "response_format": "b64_json"}
    reply = await lenient.images.generate(**body)
    [image], size = reply.data or [], "64x64" if size == "auto" else size
    file = read_b64(image.b64_json or "")
    assert "{}x{}".format(*file.size) == reply.size == size
    own = await lenient.images.generate(**body | {"size": "64x64"})
    [small] = own.data or []
    expected = ImageOps.fit(read_b64(small.b64_json or ""), file.size, Image.Resampling.LANCZOS)
    assert file.tobytes() == expected.tobytes()  # the same image at another size: it covers, the rest is cropped
    stream = await lenient.images.generate(**body, stream=True, partial_images=2)
    events = [event async for event in stream]
    assert len(events) == 3
    assert {(event.size, read_b64(event.b64_json).size) for event in events} == {(size, file.size)}
    assert events[-1].b64_json == image.b64_json


@pytest.mark.parametrize(
    "size", ["1024", "1024x", "x", "15x512", "512x2049", "0x0", "-1x-1", "99999x1", "512 x 512", ""]
)
async def test_sizes_that_cannot_be_resized_to(lenient: AsyncOpenAI, size: str) -> None:
    allowed = "must be 'auto' or WIDTHxHEIGHT, each from 16 to 2048"
    with pytest.raises(openai.BadRequestError, match=re.escape(f"size is {size!r}, {allowed}")):
        await lenient.images.generate(prompt="x", size=size)  # type: ignore[call-overload]


async def test_every_name_of_the_model_works(lenient: AsyncOpenAI) -> None:
    for name in ("tiny", "gpt-image-1", "dall-e-3", "", None):
        assert (await lenient.images.generate(prompt="x", model=name)).data
    assert [model.id async for model in lenient.models.list()] == ["tiny", "gpt-image-1", "dall-e-3"]
    assert (await lenient.models.retrieve("dall-e-3")).id == "dall-e-3"
    with pytest.raises(openai.NotFoundError, match="this server has 'tiny', 'gpt-image-1', 'dall-e-3'"):
        await lenient.images.generate(prompt="x", model="dall-e-2")


async def test_the_default_response_format(lenient: AsyncOpenAI, text_openai: AsyncOpenAI) -> None:
    """For clients that read urls only and cannot ask for them (langchain-community issue 663)."""
    [image] = (await lenient.images.generate(prompt="x")).data or []
    assert (image.b64_json, (image.url or "").startswith("http://test/images/")) == (None, True)
    [image] = (await lenient.images.generate(prompt="x", response_format="b64_json")).data or []
    assert (bool(image.b64_json), image.url) == (True, None)
    [event] = [event async for event in await lenient.images.generate(prompt="x", stream=True)]
    assert event.b64_json
    [image] = (await text_openai.images.generate(prompt="x")).data or []
    assert (bool(image.b64_json), image.url) == (True, None)


async def test_seeds_wrap_around(text_client: httpx.AsyncClient, text_app: FastAPI) -> None:
    body = {"prompt": "x", "n": 2, "seed": 2**63 - 1}
    reply = await text_client.post("/v1/images/generations", json=body)
    assert [image["seed"] for image in reply.json()["data"]] == [2**63 - 1, 0]
    assert sorted(r.sampling.seed for r in text_app.state.pipeline.engine.requests) == [0, 2**63 - 1]
    seeds = [(await text_client.post("/generate", json={"prompt": "x", "seed": -1})).json() for _ in range(2)]
    first, second = (reply["images"][0]["seed"] for reply in seeds)
    assert first != second
    assert 0 <= min(first, second) <= max(first, second) < 2**32
