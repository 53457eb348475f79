"""Pictures that grow: server-sent events of both APIs with a fake engine."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from fastapi import FastAPI
from openai import AsyncOpenAI
from PIL import Image
from tests.hang_up import hang_up

from llamagen_server.core.errors import EngineError
from llamagen_server.core.request import ImageRequest
from llamagen_server.pipeline.inpaint import Canvas, Edit
from llamagen_server.pipeline.pipeline import Preview


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


def pixels(event: dict[str, Any]) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(event["b64_json"]))))


@pytest.mark.parametrize("partial_images", [0, 1, 3, 16])
async def test_previews_come_at_even_steps_and_then_the_picture(
    class_client: httpx.AsyncClient, partial_images: int
) -> None:
    stream = await events(class_client, {"class_id": 3, "seed": 4, "partial_images": partial_images})
    assert [event["type"] for event in stream] == ["partial_image"] * partial_images + ["completed", "done"]
    assert [event["partial_image_index"] for event in stream[:partial_images]] == list(range(partial_images))
    alone = (await class_client.post("/generate", json={"class_id": 3, "seed": 4})).json()
    assert stream[-2] == {"type": "completed", "index": 0, **alone["images"][0]}
    assert stream[-1]["usage"] == alone["usage"]


@pytest.mark.parametrize(("free", "previews"), [(1, 0), (2, 1), (6, 3), (7, 3), (11, 3), (64, 3)])
async def test_an_edit_has_as_many_previews_as_its_free_codes_allow(
    class_app: FastAPI, free: int, previews: int
) -> None:
    seen: list[Any] = []
    kept = Kept(Canvas([0] * 64, [i >= 64 - free for i in range(64)]))
    request = ImageRequest(class_id=3, seed=4)
    await class_app.state.pipeline.generate(
        request, "r", read_edit=lambda: kept, partial_images=3, on_event=seen.append
    )
    assert len(seen) == previews + 1


async def test_several_pictures_in_one_stream(class_client: httpx.AsyncClient) -> None:
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
    codes = result.pictures[0].codes
    assert [type(event) for event in seen] == [Preview] * 3 + [type(result.pictures[0])]
    for known, event in zip((11, 31, 51), seen, strict=False):  # a sixth of 64 codes, three, five, and the first one
        assert np.array_equal(event.pixels, await pipeline.decode(pipeline.filled(codes[:known])))


async def test_what_is_not_known_repeats_what_is_above(class_app: FastAPI) -> None:
    pipeline = class_app.state.pipeline
    for codes in ([7], list(range(5)), list(range(8)), list(range(19))):
        grid = np.empty(64, int)
        grid[: len(codes)] = codes
        for i in range(len(codes), 64):
            grid[i] = grid[i - 8] if i >= 8 else codes[-1]
        assert pipeline.filled(codes) == grid.tolist()


class Kept(Edit):
    """An edit whose canvas is given."""

    def __init__(self, canvas: Canvas) -> None:
        super().__init__(np.zeros((64, 64, 3), np.uint8), np.ones((64, 64), bool))
        object.__setattr__(self, "given", canvas)

    def canvas(self, codes: list[int], grid_size: int) -> Canvas:
        return self.given  # type: ignore[attr-defined,no-any-return]


async def test_a_canvas_keeps_its_codes(class_app: FastAPI) -> None:
    pipeline = class_app.state.pipeline
    old = [i % 512 for i in range(64)]
    free = [20 <= i < 40 or i == 50 for i in range(64)]
    result = await pipeline.generate(ImageRequest(class_id=3, seed=4), "r", read_edit=lambda: Kept(Canvas(old, free)))
    codes = result.pictures[0].codes
    assert [i for i in range(64) if codes[i] != old[i]] == [i for i in range(64) if free[i]]
    [request] = pipeline.engine.requests
    assert list(request.known_codes) == old[:20]
    nothing = Kept(Canvas(old, [False] * 64))
    whole = await pipeline.generate(ImageRequest(class_id=3), "s", read_edit=lambda: nothing)
    assert whole.pictures[0].codes == old
    assert len(pipeline.engine.requests) == 1  # nothing to draw: the engine is not asked


async def test_errors_before_the_first_event_are_ordinary_replies(class_client: httpx.AsyncClient) -> None:
    for body in ({"class_id": 99}, {"class_id": 1, "partial_images": 17}, {"class_id": 1, "response_format": "binary"}):
        reply = await class_client.post("/generate", json={"stream": True, **body})
        assert reply.status_code == 400, reply.text


@pytest.fixture
async def client(class_client: httpx.AsyncClient) -> AsyncOpenAI:
    return AsyncOpenAI(api_key="none", base_url="http://test/v1", http_client=class_client, max_retries=0)


async def test_the_stock_client_watches_a_picture_grow(client: AsyncOpenAI) -> None:
    stream = await client.images.generate(
        prompt="", stream=True, partial_images=2, extra_body={"class_id": 3, "seed": 4}
    )
    seen = [event async for event in stream]
    assert [event.type for event in seen] == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    assert [event.partial_image_index for event in seen[:2]] == [0, 1]
    assert seen[-1].usage.output_tokens == 64
    assert seen[-1].size == "64x64"
    alone = await client.images.generate(prompt="", extra_body={"class_id": 3, "seed": 4})
    assert alone.data is not None
    assert seen[-1].b64_json == alone.data[0].b64_json


async def test_the_stock_client_raises_what_goes_wrong_on_the_way(client: AsyncOpenAI, class_app: FastAPI) -> None:
    with pytest.raises(openai.BadRequestError, match="n is 2, must be 1 in a stream"):
        await client.images.generate(prompt="", n=2, stream=True, extra_body={"class_id": 3})
    engine = class_app.state.pipeline.engine
    engine.error_at = 40
    engine.error = EngineError("the engine stopped; see the server's log")
    stream = await client.images.generate(prompt="", stream=True, partial_images=3, extra_body={"class_id": 3})
    with pytest.raises(openai.APIError, match="the engine stopped"):
        [event async for event in stream]


async def test_a_client_that_leaves_a_stream_stops_the_engine(class_app: FastAPI) -> None:
    engine = class_app.state.pipeline.engine
    engine.step = 0.2
    body = {"class_id": 1, "stream": True, "partial_images": 16}
    await hang_up(class_app, "/generate", body, after=b"partial_image")
    assert engine.aborted == ["r-0"]
