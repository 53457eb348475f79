"""Requests whose images are known from a run without faults: single replies, streams and edits, greedy and sampled."""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tests.helpers.image_files import png, read_b64

PREVIEWS = 4
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class FaultRequest:
    """One image."""

    kind: str
    """"reply", "stream" or "edit"."""
    body: dict[str, Any]


def make_requests(count: int, condition: str, seed: int = 0) -> list[FaultRequest]:
    """Returns ``count`` different requests to a ``text`` or a ``class`` model."""
    rng = random.Random(seed)
    return [_request(i, condition, rng) for i in range(count)]


def _request(number: int, condition: str, rng: random.Random) -> FaultRequest:
    body: dict[str, Any] = {"seed": number, "cfg_scale": rng.choice([1.0, 1.5, 3.0])}
    body["temperature"] = 0 if number % 2 else 1.0
    if condition == "class":
        body["class_id"] = rng.randrange(10)
    else:
        shape, color = rng.choice(["circle", "square", "triangle"]), rng.choice(["red", "green", "blue", "yellow"])
        body["prompt"] = f"a {rng.choice(['small', 'large'])} {color} {shape} on a white background"
    return FaultRequest(("reply", "stream", "edit", "reply")[number % 4], body)


async def send(client: httpx.AsyncClient, request: FaultRequest) -> Pixels:
    """Returns the image.

    Raises:
        AssertionError: the reply is not 200, or previews are missing, repeated or out of order.
    """
    match request.kind:
        case "stream":
            return await _stream(client, request.body)
        case "edit":
            reply = await client.post("/v1/images/edits", **_form(request.body))
            assert reply.status_code == 200, reply.text
            return _pixels(reply.json()["data"][0])
    reply = await client.post("/generate", json=request.body)
    assert reply.status_code == 200, reply.text
    return _pixels(reply.json()["images"][0])


async def send_all(client: httpx.AsyncClient, requests: list[FaultRequest], at_a_time: int) -> list[Pixels]:
    places = asyncio.Semaphore(at_a_time)

    async def one(request: FaultRequest) -> Pixels:
        async with places:
            return await send(client, request)

    return await asyncio.gather(*(one(request) for request in requests))


async def _stream(client: httpx.AsyncClient, body: dict[str, Any]) -> Pixels:
    async with client.stream("POST", "/generate", json=body | {"stream": True, "partial_images": PREVIEWS}) as reply:
        assert reply.status_code == 200, await reply.aread()
        lines = [line async for line in reply.aiter_lines()]
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    assert [event["type"] for event in events] == ["partial_image"] * PREVIEWS + ["completed", "done"], events
    assert [event["partial_image_index"] for event in events[:PREVIEWS]] == list(range(PREVIEWS))
    return _pixels(events[-2])


def _form(body: dict[str, Any]) -> dict[str, Any]:
    fields = {"keep_rows": "3"} | {name: str(value) for name, value in body.items()}
    return {"data": fields, "files": {"image": png(Image.new("RGB", (64, 64), (200, 30, 90)))}}


def _pixels(item: dict[str, Any]) -> Pixels:
    return np.asarray(read_b64(item["b64_json"]))
