"""``POST /generate`` with a fake engine."""

from __future__ import annotations

import asyncio
import io
from dataclasses import replace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from PIL import Image
from tests.helpers.hang_up import hang_up
from tests.helpers.image_files import read_b64

from llamagen_server.core.errors import EngineError, EngineStoppedError
from llamagen_server.core.request import ImageRequest
from llamagen_server.core.sampling import Sampling


async def test_a_prompt_becomes_an_image(text_client: httpx.AsyncClient, text_app: FastAPI) -> None:
    reply = await text_client.post("/generate", json={"prompt": "a red circle", "seed": 5})
    assert reply.status_code == 200, reply.text
    body = reply.json()
    image = read_b64(body["images"][0]["b64_json"])
    assert (image.format, image.size, image.mode) == ("PNG", (64, 64), "RGB")
    assert body["images"][0]["seed"] == 5
    assert body["model"] == "tiny"
    assert body["id"] == reply.headers["x-request-id"]
    [request] = text_app.state.pipeline.engine.requests
    tokens = len(request.condition)
    assert request.condition.shape == (tokens, 2 * 128)
    assert body["usage"] == {"input_tokens": tokens, "output_tokens": 64, "total_tokens": tokens + 64}
    assert body["timings"].keys() == {"text_ms", "engine_ms", "decode_ms", "file_ms", "total_ms"}


async def test_sampling_defaults_are_those_of_the_model(text_client: httpx.AsyncClient, text_app: FastAPI) -> None:
    await text_client.post("/generate", json={"prompt": "x", "seed": 1})
    fields = {
        "cfg_scale": 2,
        "cfg_interval": 3,
        "cfg_schedule": "cosine",
        "temperature": 0,
        "top_k": 7,
        "top_p": 0.5,
        "seed": 9,
    }
    await text_client.post("/generate", json={"prompt": "x", **fields})
    default, given = (request.sampling for request in text_app.state.pipeline.engine.requests)
    assert default == Sampling(
        cfg_scale=7.5, cfg_interval=-1, cfg_schedule="constant", temperature=1.0, top_k=1000, top_p=1.0, seed=1
    )
    assert given == Sampling(**fields)


async def test_a_model_may_have_its_own_course_of_the_scale(text_client: httpx.AsyncClient, text_app: FastAPI) -> None:
    model = text_app.state.pipeline.model
    text_app.state.pipeline.model = replace(
        model, defaults=replace(model.defaults, cfg_schedule="linear", cfg_interval=9)
    )
    await text_client.post("/generate", json={"prompt": "x"})
    await text_client.post("/generate", json={"prompt": "x", "cfg_schedule": "constant", "cfg_interval": -1})
    default, given = (request.sampling for request in text_app.state.pipeline.engine.requests)
    assert (default.cfg_schedule, default.cfg_interval) == ("linear", 9)
    assert (given.cfg_schedule, given.cfg_interval) == ("constant", -1)


async def test_guidance_scale_is_an_alias_of_cfg_scale(class_client: httpx.AsyncClient, class_app: FastAPI) -> None:
    reply = await class_client.post("/generate", json={"class_id": 3, "guidance_scale": 2.5})
    assert reply.status_code == 200, reply.text
    assert class_app.state.pipeline.engine.requests[0].sampling.cfg_scale == 2.5


async def test_image_j_has_seed_plus_j(class_client: httpx.AsyncClient) -> None:
    together = (await class_client.post("/generate", json={"class_id": 3, "n": 3, "seed": 10})).json()["images"]
    assert [image["seed"] for image in together] == [10, 11, 12]
    alone = (await class_client.post("/generate", json={"class_id": 3, "seed": 12})).json()["images"]
    assert alone == together[2:]


async def test_a_random_seed_is_chosen_and_returned(class_client: httpx.AsyncClient) -> None:
    first, second = [(await class_client.post("/generate", json={"class_id": 3})).json() for _ in range(2)]
    assert first["images"][0]["seed"] != second["images"][0]["seed"]
    again = await class_client.post("/generate", json={"class_id": 3, "seed": first["images"][0]["seed"]})
    assert again.json()["images"] == first["images"]


@pytest.mark.parametrize(("output_format", "name"), [("png", "PNG"), ("webp", "WEBP"), ("jpeg", "JPEG")])
async def test_formats(class_client: httpx.AsyncClient, output_format: str, name: str) -> None:
    reply = await class_client.post("/generate", json={"class_id": 0, "output_format": output_format})
    assert read_b64(reply.json()["images"][0]["b64_json"]).format == name


async def test_the_accept_header_names_the_format(class_client: httpx.AsyncClient) -> None:
    reply = await class_client.post("/generate", json={"class_id": 0}, headers={"accept": "image/webp"})
    assert reply.headers["content-type"] == "image/webp"
    assert Image.open(io.BytesIO(reply.content)).format == "WEBP"
    body = {"class_id": 0, "response_format": "codes"}
    codes = await class_client.post("/generate", json=body, headers={"accept": "image/webp"})
    assert len(codes.json()["images"][0]["codes"]) == 64  # the body outranks the header


@pytest.mark.parametrize("ask", [{"headers": {"accept": "image/*"}}, {"json": {"response_format": "binary"}}])
async def test_the_file_itself(class_client: httpx.AsyncClient, ask: dict[str, Any]) -> None:
    fields = {"class_id": 0, "seed": 3}
    reply = await class_client.post("/generate", json=fields | ask.get("json", {}), headers=ask.get("headers"))
    assert (reply.headers["content-type"], reply.headers["x-seed"]) == ("image/png", "3")
    assert Image.open(io.BytesIO(reply.content)).size == (64, 64)
    reply = await class_client.post(
        "/generate", json={"class_id": 0, "n": 2} | ask.get("json", {}), headers=ask.get("headers")
    )
    assert (reply.status_code, reply.json()["error"]["message"]) == (400, "n is 2, must be 1 for a binary reply")


@pytest.mark.parametrize(
    ("body", "message", "param"),
    [
        ({}, "prompt is missing", "prompt"),
        ({"prompt": ""}, "the prompt is empty", "prompt"),
        ({"prompt": "word " * 500}, "tokens, at most 120 are allowed", "prompt"),
        ({"class_id": 3}, "generates from a prompt, not from a class", "class_id"),
        ({"prompt": 3}, "prompt is 3: input should be a valid string", "prompt"),
        ({"prompt": "x", "n": 0}, "n is 0: input should be greater than or equal to 1", "n"),
        ({"prompt": "x", "n": 11}, "n is 11: input should be less than or equal to 10", "n"),
        ({"prompt": "x", "cfg_scale": "4x"}, "cfg_scale is '4x': input should be a valid number", "cfg_scale"),
        ({"prompt": "x", "cfg_scale": -1}, "cfg_scale is -1: input should be greater", "cfg_scale"),
        ({"prompt": "x", "cfg_interval": 1.5}, "cfg_interval is 1.5: input should be a valid integer", "cfg_interval"),
        (
            {"prompt": "x", "cfg_scale": 3, "guidance_scale": 3},
            "guidance_scale and cfg_scale are both given: give one",
            "guidance_scale",
        ),
        (
            {"prompt": "x", "guidance_scale": "four"},
            "guidance_scale is 'four': input should be a valid number",
            "guidance_scale",
        ),
        ({"prompt": "x", "cfg_scale": 1001}, "cfg_scale is 1001", "cfg_scale"),
        ({"prompt": "x", "cfg_interval": 2**70}, "cfg_interval is", "cfg_interval"),
        ({"prompt": "x", "cfg_schedule": "up"}, "cfg_schedule is 'up'", "cfg_schedule"),
        ({"prompt": "x", "cfg_min_p": 1.5}, "cfg_min_p is 1.5: input should be less than or equal to 1", "cfg_min_p"),
        ({"prompt": "x", "cfg_min_p": -0.1}, "cfg_min_p is -0.1", "cfg_min_p"),
        ({"prompt": "x", "temperature": -1}, "temperature is -1", "temperature"),
        ({"prompt": "x", "temperature": 2.1}, "temperature is 2.1", "temperature"),
        ({"prompt": "x", "top_k": 2**70}, "top_k is", "top_k"),
        ({"prompt": "x", "top_p": 0}, "top_p is 0: input should be greater than 0", "top_p"),
        ({"prompt": "x", "seed": -2}, "seed is -2", "seed"),
        ({"prompt": "x", "seed": True}, "seed is True: input should be a valid integer", "seed"),
        (
            {"prompt": "x", "output_format": "gif"},
            "output_format is 'gif': input should be 'png', 'webp' or",
            "output_format",
        ),
        ({"prompt": "x", "steps": 50}, "unknown field 'steps'", "steps"),
        ([], "the body is []", None),
    ],
)
async def test_bad_input_for_a_text_model(
    text_client: httpx.AsyncClient, body: Any, message: str, param: str | None
) -> None:
    reply = await text_client.post("/generate", json=body)
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert message in error["message"]
    assert "\n" not in error["message"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"prompt": "a dog"}, "generates from a class, not from a prompt: give class_id"),
        ({}, "class_id is missing, must be 0 to 9"),
        ({"class_id": 10}, "class_id is 10, must be 0 to 9"),
        ({"class_id": -1}, "class_id is -1, must be 0 to 9"),
        ({"class_id": "dog"}, "class_id is 'dog': input should be a valid integer"),
        ({"class_label": "dog"}, "this model has no labels: give class_id"),
    ],
)
async def test_bad_input_for_a_class_model(class_client: httpx.AsyncClient, body: Any, message: str) -> None:
    reply = await class_client.post("/generate", json=body)
    assert reply.status_code == 400, reply.text
    assert message in reply.json()["error"]["message"]


@pytest.mark.parametrize("body", [b"{", b"", b'{"prompt": "x", "cfg_scale": NaN}', b"\xff\xfe", b'{"prompt": "x"} y'])
async def test_malformed_json(text_client: httpx.AsyncClient, body: bytes) -> None:
    reply = await text_client.post("/generate", content=body, headers={"content-type": "application/json"})
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["type"] == "invalid_request_error"


async def test_unknown_routes_and_methods(text_client: httpx.AsyncClient) -> None:
    missing, wrong = await text_client.get("/nothing"), await text_client.get("/generate")
    assert (missing.status_code, missing.json()["error"]["type"]) == (404, "not_found_error")
    assert (wrong.status_code, wrong.json()["error"]["type"]) == (405, "invalid_request_error")


async def test_engine_failures(class_client: httpx.AsyncClient, class_app: FastAPI) -> None:
    engine = class_app.state.pipeline.engine
    engine.error = EngineStoppedError("the engine stopped; see the server's log")
    reply = await class_client.post("/generate", json={"class_id": 0, "n": 2})
    assert (reply.status_code, reply.json()["error"]["type"]) == (503, "service_unavailable_error")
    engine.error = ZeroDivisionError("secret detail")
    reply = await class_client.post("/generate", json={"class_id": 0})
    assert (reply.status_code, reply.json()["error"]["type"]) == (500, "server_error")
    assert "secret" not in reply.text
    engine.error = None
    assert (await class_client.post("/generate", json={"class_id": 0})).status_code == 200


async def test_one_failed_image_cancels_the_others(class_client: httpx.AsyncClient, class_app: FastAPI) -> None:
    engine = class_app.state.pipeline.engine
    engine.go_on.clear()  # the other two would never end by themselves
    engine.error, engine.error_seeds = EngineError("the engine failed on this request"), frozenset({11})
    body = {"class_id": 1, "n": 3, "seed": 10}
    reply = await class_client.post("/generate", json=body, headers={"x-request-id": "r"})
    assert (reply.status_code, reply.json()["error"]["message"]) == (500, "the engine failed on this request")
    assert reply.headers["x-should-retry"] == "false"  # to OpenAI's clients
    assert sorted(engine.aborted) == ["r-0", "r-2"]
    assert class_app.state.pipeline.admission.in_flight == 0


async def test_a_cancelled_request_cancels_all_its_images(class_app: FastAPI) -> None:
    pipeline = class_app.state.pipeline
    pipeline.engine.go_on.clear()
    task = asyncio.create_task(pipeline.generate(ImageRequest(class_id=1, n=3), "r"))
    await pipeline.engine.until_requested(3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(pipeline.engine.aborted) == ["r-0", "r-1", "r-2"]


@pytest.mark.parametrize("path", ["/generate", "/v1/images/generations"])
async def test_a_client_that_disconnects_stops_the_engine(class_app: FastAPI, path: str) -> None:
    engine = class_app.state.pipeline.engine
    engine.go_on.clear()
    sent = await hang_up(class_app, path, {"class_id": 1, "n": 2})
    assert sorted(engine.aborted) == ["r-0", "r-1"]
    assert sent[0]["status"] == 499


async def test_a_loading_server_answers_503(text_client: httpx.AsyncClient, text_app: FastAPI) -> None:
    assert (await text_client.get("/ready")).status_code == 200
    pipeline, text_app.state.pipeline = text_app.state.pipeline, None
    for reply in (await text_client.get("/ready"), await text_client.post("/generate", json={"prompt": "x"})):
        assert (reply.status_code, reply.json()["error"]["message"]) == (503, "the model is still loading")
    text_app.state.pipeline = pipeline
    pipeline.engine.dead = True
    assert (await text_client.get("/ready")).status_code == 503


async def test_the_header_for_json_is_named(text_client: httpx.AsyncClient) -> None:
    reply = await text_client.post("/generate", content=b'{"prompt": "x"}')
    assert reply.status_code == 400
    assert "content-type: application/json" in reply.json()["error"]["message"]
