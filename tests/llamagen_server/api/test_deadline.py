"""Timeouts over HTTP with a fake engine: the reply 504, and the end of the engine's work."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from fastapi import FastAPI
from openai import AsyncOpenAI
from PIL import Image
from tests.helpers.app import client_of
from tests.helpers.image_files import png

from llamagen_server.api.app import create_app
from llamagen_server.core import metrics
from llamagen_server.core.errors import DeadlineError
from llamagen_server.core.options import Limits
from llamagen_server.core.request import ImageRequest

LATE = {
    "message": "the request was not finished within its timeout of 0.5 seconds",
    "type": "timeout_error",
    "param": None,
    "code": "timeout",
}
IMAGE = png(Image.fromarray(np.zeros((64, 64, 4), np.uint8)))


def is_idle(app: FastAPI) -> bool:
    admission = app.state.pipeline.admission
    return admission.in_flight == 0 and not admission._queue


@pytest.mark.parametrize("path", ["/generate", "/v1/images/generations"])
async def test_a_late_request_gets_504_and_its_work_ends(
    class_client: httpx.AsyncClient, class_app: FastAPI, path: str
) -> None:
    engine = class_app.state.pipeline.engine
    engine.go_on.clear()
    before = metrics.REQUESTS.labels("late")._value.get()
    body = {"class_id": 1, "n": 2, "timeout": 0.5}
    reply = await class_client.post(path, json=body, headers={"x-request-id": "r"})
    assert (reply.status_code, reply.json()) == (504, {"error": LATE})
    assert sorted(engine.aborted) == ["r-0", "r-1"]
    assert is_idle(class_app)
    assert metrics.REQUESTS.labels("late")._value.get() == before + 1
    engine.go_on.set()
    assert (await class_client.post(path, json=body | {"timeout": 60})).status_code == 200


async def test_a_late_edit_gets_504(text_openai: AsyncOpenAI, text_app: FastAPI) -> None:
    text_app.state.pipeline.engine.go_on.clear()
    with pytest.raises(openai.InternalServerError, match="within its timeout of 3 seconds") as error:
        await text_openai.images.edit(image=IMAGE, prompt="x", extra_body={"timeout": 3})
    assert (error.value.status_code, error.value.code) == (504, "timeout")
    assert len(text_app.state.pipeline.engine.aborted) == 1
    assert is_idle(text_app)


async def test_a_stream_that_is_late_before_its_first_event_has_one_event(
    class_client: httpx.AsyncClient, class_app: FastAPI
) -> None:
    class_app.state.pipeline.engine.go_on.clear()
    reply = await class_client.post("/generate", json={"class_id": 1, "stream": True, "timeout": 0.5})
    assert reply.status_code == 200  # sent when the request was accepted
    assert reply.text.startswith("event: error\ndata: ")
    assert json.loads(reply.text.partition("data: ")[2]) == {"type": "error", "error": LATE}


@pytest.mark.parametrize("path", ["/generate", "/v1/images/generations"])
async def test_a_stream_that_is_late_ends_with_an_error_event(
    class_client: httpx.AsyncClient, class_app: FastAPI, path: str
) -> None:
    engine = class_app.state.pipeline.engine
    engine.step = 0.4
    body = {"class_id": 1, "stream": True, "partial_images": 3, "timeout": 2}
    reply = await class_client.post(path, json=body, headers={"x-request-id": "r"})
    assert reply.status_code == 200
    events = [json.loads(line.removeprefix("data: ")) for line in reply.text.splitlines() if line.startswith("data")]
    assert events[0]["type"].endswith("partial_image")
    assert events[-1] == {"type": "error", "error": LATE | {"message": LATE["message"].replace("0.5", "2")}}
    assert engine.aborted == ["r-0"]
    assert is_idle(class_app)


async def test_the_engines_work_ends_also_if_a_preview_is_decoded_at_the_deadline(class_app: FastAPI) -> None:
    """The engine's generator waits at its ``yield`` then: cancelling alone would not reach it."""
    pipeline = class_app.state.pipeline
    decoding = asyncio.Event()

    async def decode_image(*_: Any) -> Any:
        decoding.set()
        await asyncio.sleep(600)

    pipeline.image_tokenizer.decode_image = decode_image
    with pytest.raises(DeadlineError) as error:
        await pipeline.generate(ImageRequest(class_id=1, timeout=0.5), "r", partial_images=2)
    assert decoding.is_set()
    assert error.value.__traceback__ is not None  # the frames are still there: the generator was closed, not collected
    assert pipeline.engine.aborted == ["r-0"]


async def test_the_default_counts_for_requests_that_name_no_timeout(
    class_client: httpx.AsyncClient, class_app: FastAPI
) -> None:
    pipeline = class_app.state.pipeline
    pipeline.admission.limits = Limits(default_timeout=0.5, max_timeout=30)
    pipeline.engine.go_on.clear()
    reply = await class_client.post("/generate", json={"class_id": 1})
    assert (reply.status_code, reply.json()) == (504, {"error": LATE})

    async def hang(*_: Any) -> Any:
        await asyncio.sleep(600)

    pipeline.image_tokenizer.decode_image = hang
    reply = await class_client.post("/v1/images/decode", json={"codes": [0] * 64})
    assert (reply.status_code, reply.json()) == (504, {"error": LATE})
    assert is_idle(class_app)


@pytest.mark.parametrize(
    ("seconds", "message"),
    [
        (30.5, "timeout is 30.5, must be at most 30 seconds, the server's maximum"),
        (0, "timeout is 0: input should be greater than 0"),
        (-1, "timeout is -1: input should be greater than 0"),
        (True, "timeout is True: input should be a valid number"),
        ("five", "timeout is 'five': input should be a valid number"),
    ],
)
async def test_wrong_timeouts(class_client: httpx.AsyncClient, class_app: FastAPI, seconds: Any, message: str) -> None:
    class_app.state.pipeline.admission.limits = Limits(default_timeout=20, max_timeout=30)
    for path in ("/generate", "/v1/images/generations"):
        reply = await class_client.post(path, json={"class_id": 1, "timeout": seconds})
        assert (reply.status_code, reply.json()["error"]["message"]) == (400, message)
        assert reply.json()["error"]["param"] == "timeout"
        assert (await class_client.post(path, json={"class_id": 1, "timeout": 30})).status_code == 200


async def test_a_deadline_that_cannot_be_met_gets_429(class_client: httpx.AsyncClient, class_app: FastAPI) -> None:
    pipeline = class_app.state.pipeline
    pipeline.admission.throughput.rate, pipeline.engine.max_num_seqs = 2.0, 1
    with pipeline.admission.admit(300):
        reply = await class_client.post("/generate", json={"class_id": 1, "timeout": 100})
    assert (reply.status_code, reply.headers["retry-after"]) == (429, "80")
    assert reply.json()["error"] == {
        "message": "the 300 images ahead take about 150 seconds: timeout is 100, must be 215",
        "type": "rate_limit_error",
        "param": None,
        "code": "overloaded",
    }


async def test_the_keys_get_their_turns(class_app: FastAPI) -> None:
    """Each image of a second key is ahead of the later images of the first."""
    app = create_app("tiny", class_app.state.pipeline, ["a", "b"])

    async def post(key: str, n: int) -> None:
        async with client_of(app) as http:
            reply = await http.post("/generate", json={"class_id": 1, "n": n}, headers={"x-api-key": key})
            assert reply.status_code == 200

    engine = class_app.state.pipeline.engine
    engine.go_on.clear()
    first = asyncio.create_task(post("a", 3))
    await engine.until_requested(3)
    second = asyncio.create_task(post("b", 2))
    await engine.until_requested(5)
    assert [request.priority for request in engine.requests] == [0, 1, 2, 0, 1]
    engine.go_on.set()
    await asyncio.gather(first, second)
