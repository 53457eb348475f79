"""``/v1/images/edits`` with the stock openai client and a fake engine."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from fastapi import FastAPI
from openai import AsyncOpenAI
from PIL import Image
from tests.helpers.app import client_of
from tests.helpers.image_files import png, read_b64

from llamagen_server.api.app import create_app
from llamagen_server.core.options import RequestPolicy

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


async def test_a_mask_that_masks_nothing_is_refused(text_openai: AsyncOpenAI, text_app: FastAPI) -> None:
    for mask in (lower_half(alpha=255), lower_half(alpha=128)):
        with pytest.raises(
            openai.BadRequestError, match="nothing is masked: .*; make the pixels to inpaint transparent"
        ):
            await text_openai.images.edit(image=[NOISE_PNG], mask=mask, prompt="x")
    assert text_app.state.pipeline.engine.requests == []


@pytest.fixture
async def whole_client(text_app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app("tiny", text_app.state.pipeline, policy=RequestPolicy(edit_without_mask="whole"))
    async with client_of(app) as client:
        yield client


async def test_without_a_mask_the_whole_image_is_generated_if_the_server_allows_it(
    whole_client: httpx.AsyncClient, text_app: FastAPI
) -> None:
    """Open WebUI, AIPerf and LiteLLM send edits without a mask."""
    data = {"prompt": "a red circle", "seed": "4"}
    edit = await whole_client.post("/v1/images/edits", files={"image": NOISE_PNG}, data=data)
    assert edit.status_code == 200, edit.text
    alone = await whole_client.post("/v1/images/generations", json=data)
    assert edit.json()["data"] == alone.json()["data"]
    assert edit.json()["usage"] == alone.json()["usage"]
    kept = await whole_client.post("/v1/images/edits", files={"image": NOISE_PNG, "mask": lower_half()}, data=data)
    assert (decoded(kept.json()["data"][0]["b64_json"])[:32] == NOISE[:32]).all()
    bad = await whole_client.post("/v1/images/edits", files={"image": b"hello"}, data=data)
    assert (bad.status_code, "not an image file" in bad.text) == (400, True)


def data_url(file: bytes, kind: str = "image/png") -> dict[str, str]:
    return {"image_url": f"data:{kind};base64,{base64.b64encode(file).decode()}"}


async def test_an_edit_as_json(text_client: httpx.AsyncClient) -> None:
    """As OpenAI's API accepts it (bifrost issue 6418)."""
    body = {"prompt": "x", "seed": 4, "images": [data_url(NOISE_PNG)], "mask": data_url(lower_half())}
    reply = await text_client.post("/v1/images/edits", json={**body, "background": None})
    assert reply.status_code == 200, reply.text
    files = {"image": NOISE_PNG, "mask": lower_half()}
    form = await text_client.post("/v1/images/edits", files=files, data={"prompt": "x", "seed": "4"})
    assert reply.json()["data"] == form.json()["data"]
    lined = {"image_url": "DATA:image/png;name=a.png;base64," + base64.encodebytes(NOISE_PNG).decode()}
    again = await text_client.post("/v1/images/edits", json={**body, "images": [lined]})
    assert again.json()["data"] == reply.json()["data"]
    null = await text_client.post("/v1/images/edits", json={**body, "mask": {**body["mask"], "file_id": None}})
    assert null.json()["data"] == reply.json()["data"]
    stream = await text_client.post("/v1/images/edits", json={**body, "stream": True, "partial_images": 2})
    assert [line for line in stream.text.splitlines() if line.startswith("event")] == [
        *["event: image_edit.partial_image"] * 2,
        "event: image_edit.completed",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"images": [{"image_url": "https://a.example/b.png"}]},
            "images.0.image_url is 'https://a.example/b.png', must",
        ),
        (
            {"images": [{"image_url": "file:///etc/passwd"}]},
            "must be a data URL (data:image/png;base64,...); this server",
        ),
        ({"images": [{"image_url": "data:image/png,abc"}]}, "must be a data URL"),
        ({"images": [{"image_url": "data:image/png;base64,@@@"}]}, "images.0.image_url is not valid base64"),
        ({"images": [{"file_id": "file-1"}]}, "image_url is missing"),
        ({"images": []}, "images is empty, must have one image"),
        ({"images": [data_url(NOISE_PNG)] * 2}, "images is given 2 times, must be given once"),
        ({"images": None}, "images is missing"),
        ({"images": [data_url(b"hello")]}, "image is not an image file that can be read"),
        ({"mask": {"image_url": "http://a"}}, "mask.image_url is 'http://a', must be a data URL"),
        ({"mask": "abc"}, "mask.image_url is 'abc', must be a data URL"),
        ({"steps": 3}, "unknown field 'steps'"),
        ({"n": 11}, "n is 11: input should be less than or equal to 10"),
    ],
)
async def test_bad_edits_as_json(text_client: httpx.AsyncClient, change: dict[str, Any], message: str) -> None:
    body = {"prompt": "x", "images": [data_url(NOISE_PNG)], "mask": data_url(lower_half()), **change}
    reply = await text_client.post("/v1/images/edits", json=body)
    assert reply.status_code == 400, reply.text
    assert message in reply.json()["error"]["message"]


async def test_json_that_is_none(text_client: httpx.AsyncClient) -> None:
    for content in (b"", b"{", b"[]", b"\xff", b'{"images": ' + b"[" * 10_000):
        reply = await text_client.post(
            "/v1/images/edits", content=content, headers={"content-type": "application/json"}
        )
        assert reply.status_code == 400, reply.text
        assert len(reply.json()["error"]["message"]) < 300


async def test_a_field_that_is_given_twice_is_refused(text_client: httpx.AsyncClient) -> None:
    data = {"prompt": "x", "keep_rows": "4", "n": ["1", "2"]}
    reply = await text_client.post("/v1/images/edits", files={"image": NOISE_PNG}, data=data)
    assert (reply.status_code, reply.json()["error"]["message"]) == (400, "n is given twice, must be given once")


async def test_fields_that_a_page_leaves_empty_are_absent(text_client: httpx.AsyncClient, text_app: FastAPI) -> None:
    files = {"image": ("a.png", NOISE_PNG), "mask": ("", b""), "markup": ("", b"")}
    data = {"prompt": "x", "keep_rows": "4", "seed": "", "size": "", "model": "", "cfg_scale": ""}
    reply = await text_client.post("/v1/images/edits", files=files, data=data)
    assert reply.status_code == 200, reply.text
    assert len(text_app.state.pipeline.engine.requests[0].prefix_tokens) == 32
    empty = {"image": NOISE_PNG, "mask": ("mask.png", b"")}  # a file that is empty, not a field that was left empty
    reply = await text_client.post("/v1/images/edits", files=empty, data={"prompt": "x"})
    assert (reply.status_code, reply.json()["error"]["message"]) == (400, "mask is an empty file")
    reply = await text_client.post("/v1/images/edits", files={"image": ("", b"")}, data={"prompt": "x"})
    assert (reply.status_code, reply.json()["error"]["message"]) == (400, "image is missing")


@pytest.mark.parametrize("kind", ["Multipart/Form-Data", "MULTIPART/FORM-DATA", "multipart/form-data"])
async def test_a_content_type_in_any_case(text_client: httpx.AsyncClient, kind: str) -> None:
    request = text_client.build_request(
        "POST", "/v1/images/edits", files={"image": NOISE_PNG}, data={"prompt": "x", "keep_rows": "4"}
    )
    request.headers["content-type"] = request.headers["content-type"].replace("multipart/form-data", kind)
    reply = await text_client.send(request)
    assert reply.status_code == 200, reply.text


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
        "mask and keep_rows are missing, and the image has no transparent pixel": {"mask": openai.omit},
        "mask must be sent as a file": {"mask": openai.omit, "extra_body": {"mask": "x"}},
        "size is '512x512', must be 'auto' or '64x64'": {"size": "512x512"},
        "n is 'two': input should be a valid integer": {"n": "two"},
        "n is '11': input should be less than or equal to 10": {"n": 11},
        "nothing is masked: keep_rows is 9, must be 0 to 7": {"mask": openai.omit, "extra_body": {"keep_rows": 9}},
        "unknown field 'steps'": {"extra_body": {"steps": 3}},
        "prompt is missing": {"prompt": openai.omit},
    }
    for message, change in bad.items():
        form: dict[str, Any] = {"image": NOISE_PNG, "mask": lower_half(), "prompt": "x", **change}
        with pytest.raises(openai.BadRequestError, match=message):
            await text_openai.images.edit(**form)
    for kind, message in (("multipart/form-data", "boundary"), ("text/plain", "must be multipart/form-data or applic")):
        reply = await text_client.post("/v1/images/edits", content=b"x", headers={"content-type": kind})
        assert reply.status_code == 400, reply.text
        assert message in reply.json()["error"]["message"]


async def test_class_models_edit_too(class_client: httpx.AsyncClient, class_app: FastAPI) -> None:
    reply = await class_client.post(
        "/v1/images/edits", files={"image": NOISE_PNG, "mask": lower_half()}, data={"class_id": "3"}
    )
    assert reply.status_code == 200, reply.text
    [request] = class_app.state.pipeline.engine.requests
    assert request.condition == 3
