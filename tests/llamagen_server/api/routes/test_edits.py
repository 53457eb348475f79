"""``/v1/images/edits`` with the stock openai client and a fake engine."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import openai
import pytest
from fastapi import FastAPI
from openai import AsyncOpenAI
from PIL import Image
from tests.helpers.image_files import png, read_b64

NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
NOISE_PNG = png(Image.fromarray(NOISE))


def lower_half(alpha: int = 0) -> bytes:
    """A mask whose lower half has this alpha."""
    mask = np.zeros((64, 64, 4), np.uint8)
    mask[:32, :, 3] = 255
    mask[32:, :, 3] = alpha
    return png(Image.fromarray(mask))


def decoded(b64_json: str | None) -> np.ndarray:
    return np.asarray(read_b64(b64_json or ""))


async def test_the_lower_half_is_inpainted(text_openai: AsyncOpenAI, text_app: FastAPI) -> None:
    reply = await text_openai.images.edit(
        image=("a.png", NOISE_PNG),
        mask=("mask.png", lower_half()),
        prompt="a red circle",
        n=2,
        size="64x64",
        input_fidelity="high",
        extra_body={"cfg_scale": 3, "seed": 4, "top_k": 0},
    )
    assert reply.data is not None
    for image in reply.data:
        pixels = decoded(image.b64_json)
        assert (pixels[:32] == NOISE[:32]).all()
        assert (pixels[32:] != NOISE[32:]).any()
    pipeline = text_app.state.pipeline
    codes = await pipeline.encode_image(lambda: NOISE)
    requests = pipeline.engine.requests
    assert [list(request.prefix_tokens) for request in requests] == [codes[:32]] * 2
    assert [list(request.forced_tokens) for request in requests] == [codes[:32] + [-1] * 32] * 2
    assert {(r.sampling.cfg_scale, r.sampling.seed) for r in requests} == {(3.0, 4), (3.0, 5)}
    assert reply.usage is not None
    assert reply.usage.input_tokens_details.image_tokens == 64
    assert reply.usage.total_tokens == reply.usage.input_tokens + 128


async def test_guidance_scale_is_an_alias_of_cfg_scale(text_openai: AsyncOpenAI, text_app: FastAPI) -> None:
    form: dict[str, Any] = {"image": NOISE_PNG, "mask": lower_half(), "prompt": "x"}
    await text_openai.images.edit(**form, extra_body={"guidance_scale": 2.5})
    assert text_app.state.pipeline.engine.requests[0].sampling.cfg_scale == 2.5
    with pytest.raises(openai.BadRequestError, match="guidance_scale and cfg_scale are both given: give one"):
        await text_openai.images.edit(**form, extra_body={"guidance_scale": 2.5, "cfg_scale": 2.5})


async def test_an_empty_mask_returns_the_image(text_openai: AsyncOpenAI, text_app: FastAPI) -> None:
    reply = await text_openai.images.edit(image=[NOISE_PNG], mask=lower_half(alpha=1), prompt="x")
    assert reply.data is not None
    assert (decoded(reply.data[0].b64_json) == NOISE).all()
    assert text_app.state.pipeline.engine.requests == []


async def test_an_image_is_continued(text_openai: AsyncOpenAI, text_app: FastAPI) -> None:
    await text_openai.images.edit(image=NOISE_PNG, prompt="x", extra_body={"keep_rows": 3})
    [request] = text_app.state.pipeline.engine.requests
    assert len(request.prefix_tokens) == 24


async def test_an_edit_streams_previews(text_openai: AsyncOpenAI) -> None:
    form: dict[str, Any] = {"image": NOISE_PNG, "mask": lower_half(), "prompt": "x", "extra_body": {"seed": 4}}
    stream = await text_openai.images.edit(**form, stream=True, partial_images=3)
    seen = [event async for event in stream]
    assert [event.type for event in seen] == ["image_edit.partial_image"] * 3 + ["image_edit.completed"]
    for event in seen:
        assert (decoded(event.b64_json)[:32] == NOISE[:32]).all()
    alone = await text_openai.images.edit(**form)
    assert alone.data is not None
    assert seen[-1].b64_json == alone.data[0].b64_json
    assert alone.usage is not None
    assert seen[-1].usage.total_tokens == alone.usage.total_tokens


async def test_bad_edits(text_openai: AsyncOpenAI, text_client: httpx.AsyncClient) -> None:
    bad: dict[str, dict[str, Any]] = {
        "image is not an image file that can be read": {"image": b"hello"},
        "image is given 2 times, must be given once": {"image": [NOISE_PNG] * 2},
        "mask is 1x1, must be 64x64": {"mask": png(Image.new("RGBA", (1, 1)))},
        "mask and keep_rows are missing, and the image has no alpha channel": {"mask": openai.omit},
        "mask must be sent as a file": {"mask": openai.omit, "extra_body": {"mask": "x"}},
        "size is '512x512', must be 'auto' or '64x64'": {"size": "512x512"},
        "n is 'two': input should be a valid integer": {"n": "two"},
        "n is '11': input should be less than or equal to 10": {"n": 11},
        "keep_rows is 9, must be 0 to 8": {"mask": openai.omit, "extra_body": {"keep_rows": 9}},
        "unknown field 'steps'": {"extra_body": {"steps": 3}},
        "prompt is missing": {"prompt": openai.omit},
    }
    for message, change in bad.items():
        form: dict[str, Any] = {"image": NOISE_PNG, "mask": lower_half(), "prompt": "x", **change}
        with pytest.raises(openai.BadRequestError, match=message):
            await text_openai.images.edit(**form)
    for content in ({"json": {"prompt": "x"}}, {"content": b"x", "headers": {"content-type": "multipart/form-data"}}):
        reply = await text_client.post("/v1/images/edits", **content)
        assert reply.status_code == 400, reply.text
        assert "multipart" in reply.json()["error"]["message"] or "boundary" in reply.json()["error"]["message"]


async def test_class_models_edit_too(class_client: httpx.AsyncClient, class_app: FastAPI) -> None:
    reply = await class_client.post(
        "/v1/images/edits", files={"image": NOISE_PNG, "mask": lower_half()}, data={"class_id": "3"}
    )
    assert reply.status_code == 200, reply.text
    [request] = class_app.state.pipeline.engine.requests
    assert request.condition == 3
