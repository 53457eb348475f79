"""Images that grow: server-sent events of both APIs with a fake engine."""

from __future__ import annotations

import json
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from fastapi import FastAPI
from openai import AsyncOpenAI
from tests.helpers.app_on_a_port import serve
from tests.helpers.hang_up import hang_up

from llamagen_server.api import sse
from llamagen_server.core.errors import EngineStoppedError
from llamagen_server.core.request import ImageRequest
from llamagen_server.core.results import Accepted, GeneratedImage, Preview
from llamagen_server.pipeline.inpaint import Inpainting, TokenMask
from llamagen_server.pipeline.previews import fill


async def events(client: httpx.AsyncClient, body: dict[str, Any]) -> list[dict[str, Any]]:
    reply = await client.post("/generate", json={"stream": True, **body})
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"].startswith("text/event-stream")
    parsed = []
    for block in reply.text.strip().split("\n\n"):
        name, data = block.split("\n")
        parsed.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {parsed[-1]['type']}"
    return parsed


@pytest.mark.parametrize("partial_images", [0, 1, 3, 16])
async def test_evenly_spaced_previews_precede_the_image(class_client: httpx.AsyncClient, partial_images: int) -> None:
    stream = await events(class_client, {"class_id": 3, "seed": 4, "partial_images": partial_images})
    assert [event["type"] for event in stream] == ["partial_image"] * partial_images + ["completed", "done"]
    assert [event["partial_image_index"] for event in stream[:partial_images]] == list(range(partial_images))
    alone = (await class_client.post("/generate", json={"class_id": 3, "seed": 4})).json()
    assert stream[-2] == {"type": "completed", "index": 0, **alone["images"][0]}
    assert stream[-1]["usage"] == alone["usage"]


@pytest.mark.parametrize(("masked", "previews"), [(1, 0), (2, 1), (6, 3), (7, 3), (11, 3), (64, 3)])
async def test_an_edit_has_as_many_previews_as_its_masked_tokens_allow(
    class_app: FastAPI, masked: int, previews: int
) -> None:
    seen: list[Any] = []
    inpainting = GivenMask(TokenMask([0] * 64, [i >= 64 - masked for i in range(64)]))
    request = ImageRequest(class_id=3, seed=4)
    await class_app.state.pipeline.generate(
        request, "r", read_inpainting=lambda: inpainting, partial_images=3, on_event=seen.append
    )
    assert [type(event) for event in seen] == [Accepted, *[Preview] * previews, GeneratedImage]


async def test_several_images_in_one_stream(class_client: httpx.AsyncClient) -> None:
    stream = await events(class_client, {"class_id": 3, "seed": 4, "n": 3, "partial_images": 2})
    for index in range(3):
        mine = [event["type"] for event in stream if event.get("index") == index]
        assert mine == ["partial_image", "partial_image", "completed"]
    assert stream[-1]["type"] == "done"


async def test_a_stream_of_codes(class_client: httpx.AsyncClient) -> None:
    stream = await events(class_client, {"class_id": 3, "seed": 4, "response_format": "codes", "logprobs": True})
    plain = await class_client.post("/generate", json={"class_id": 3, "seed": 4, "response_format": "codes"})
    [image] = plain.json()["images"]
    assert len(image["codes"]) == 64
    assert "b64_json" not in image
    assert stream[0]["codes"] == image["codes"]
    assert stream[0]["logprobs"] == [-1.0] * 64


async def test_previews_of_the_pipeline(class_app: FastAPI) -> None:
    pipeline, seen = class_app.state.pipeline, []
    request = ImageRequest(class_id=3, seed=4)
    result = await pipeline.generate(request, "r", partial_images=3, on_event=seen.append)
    codes = result.images[0].codes
    assert [type(event) for event in seen] == [Accepted, *[Preview] * 3, GeneratedImage]
    for step, event in zip((11, 31, 51), seen[1:], strict=False):  # a sixth of 64 codes, three, five, and the first one
        assert np.array_equal(event.pixels, await pipeline.decode_image(fill(codes[:step], 8)))


def test_missing_tokens_repeat_the_row_above() -> None:
    for codes in ([7], list(range(5)), list(range(8)), list(range(19))):
        grid = np.empty(64, int)
        grid[: len(codes)] = codes
        for i in range(len(codes), 64):
            grid[i] = grid[i - 8] if i >= 8 else codes[-1]
        assert fill(codes, 8) == grid.tolist()


class GivenMask(Inpainting):
    """An inpainting with a token mask of the test's own."""

    def __init__(self, token_mask: TokenMask) -> None:
        super().__init__(np.zeros((64, 64, 3), np.uint8), np.ones((64, 64), bool))
        object.__setattr__(self, "given", token_mask)

    def token_mask(self, codes: list[int], grid_size: int) -> TokenMask:
        return self.given  # type: ignore[attr-defined,no-any-return]


async def test_kept_tokens_keep_their_codes(class_app: FastAPI) -> None:
    pipeline = class_app.state.pipeline
    old = [i % 512 for i in range(64)]
    masked = [20 <= i < 40 or i == 50 for i in range(64)]
    inpainting = GivenMask(TokenMask(old, masked))
    result = await pipeline.generate(ImageRequest(class_id=3, seed=4), "r", read_inpainting=lambda: inpainting)
    codes = result.images[0].codes
    assert [i for i in range(64) if codes[i] != old[i]] == [i for i in range(64) if masked[i]]
    [request] = pipeline.engine.requests
    assert list(request.prefix_tokens) == old[:20]
    nothing = GivenMask(TokenMask(old, [False] * 64))
    whole = await pipeline.generate(ImageRequest(class_id=3), "s", read_inpainting=lambda: nothing)
    assert whole.images[0].codes == old
    assert len(pipeline.engine.requests) == 1  # nothing is masked: the engine is not asked


async def test_errors_before_the_first_event_are_ordinary_replies(class_client: httpx.AsyncClient) -> None:
    for body in ({"class_id": 99}, {"class_id": 1, "partial_images": 17}, {"class_id": 1, "response_format": "binary"}):
        reply = await class_client.post("/generate", json={"stream": True, **body})
        assert reply.status_code == 400, reply.text


async def test_the_stock_client_watches_an_image_grow(class_openai: AsyncOpenAI) -> None:
    stream = await class_openai.images.generate(
        prompt="", stream=True, partial_images=2, extra_body={"class_id": 3, "seed": 4}
    )
    seen = [event async for event in stream]
    assert [event.type for event in seen] == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    assert [event.partial_image_index for event in seen[:2]] == [0, 1]
    assert seen[-1].usage.output_tokens == 64
    assert seen[-1].size == "64x64"
    alone = await class_openai.images.generate(prompt="", extra_body={"class_id": 3, "seed": 4})
    assert alone.data is not None
    assert seen[-1].b64_json == alone.data[0].b64_json


async def test_the_stock_client_raises_an_error_in_the_stream(class_openai: AsyncOpenAI, class_app: FastAPI) -> None:
    with pytest.raises(openai.BadRequestError, match="n is 2, must be 1 in a stream"):
        await class_openai.images.generate(prompt="", n=2, stream=True, extra_body={"class_id": 3})
    engine = class_app.state.pipeline.engine
    engine.error_at = 40
    engine.error = EngineStoppedError("the engine stopped; see the server's log")
    stream = await class_openai.images.generate(prompt="", stream=True, partial_images=3, extra_body={"class_id": 3})
    with pytest.raises(openai.APIError, match="the engine stopped"):
        [event async for event in stream]


async def test_a_client_that_disconnects_from_a_stream_stops_the_engine(class_app: FastAPI) -> None:
    engine = class_app.state.pipeline.engine
    engine.step = 0.2
    body = {"class_id": 1, "stream": True, "partial_images": 16}
    await hang_up(class_app, "/generate", body, after=b"partial_image")
    assert engine.aborted == ["r-0"]


@pytest.mark.parametrize("failure", [None, EngineStoppedError("the engine stopped")])
async def test_a_silent_stream_is_kept_alive(
    class_client: httpx.AsyncClient, class_app: FastAPI, monkeypatch: pytest.MonkeyPatch, failure: Exception | None
) -> None:
    """As while a new engine starts. Once a comment is sent, an error can only be an event."""
    monkeypatch.setattr(sse, "KEEP_ALIVE_SECONDS", 0.05)
    engine = class_app.state.pipeline.engine
    engine.error = failure
    engine.delay = 0.3
    reply = await class_client.post("/generate", json={"class_id": 3, "stream": True})
    blocks = reply.text.strip().split("\n\n")
    assert reply.status_code == 200
    assert blocks[:2] == [": keep-alive"] * 2
    assert blocks[-1].startswith("event: error" if failure else "event: done")


async def test_the_stock_client_skips_comments(
    class_openai: AsyncOpenAI, class_app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "KEEP_ALIVE_SECONDS", 0.02)
    class_app.state.pipeline.engine.step = 0.1
    stream = await class_openai.images.generate(prompt="", stream=True, partial_images=1, extra_body={"class_id": 3})
    seen = [event.type async for event in stream]
    assert seen == ["image_generation.partial_image", "image_generation.completed"]


async def test_headers_are_sent_when_the_request_is_accepted(class_app: FastAPI) -> None:
    """Proxies cut off a silent connection, and some hold events back (open-design issue 99)."""
    engine = class_app.state.pipeline.engine
    engine.go_on.clear()
    with serve(class_app) as url:
        async with httpx.AsyncClient(base_url=url) as client:
            bodies = ({"class_id": 1}, {"class_id": 1, "partial_images": 2})
            for path in ("/generate", "/v1/images/generations"):
                for body in bodies:
                    async with client.stream("POST", path, json={**body, "stream": True}, timeout=5) as reply:
                        assert reply.status_code == 200  # while the engine does nothing
                        assert reply.headers["content-type"].startswith("text/event-stream")
                        assert reply.headers["cache-control"] == "no-cache"
                        assert reply.headers["x-accel-buffering"] == "no"
            bad = await client.post("/generate", json={"class_id": 99, "stream": True})
            assert bad.status_code == 400  # what is wrong from the start is no stream
