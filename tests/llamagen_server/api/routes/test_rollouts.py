"""Rollouts over HTTP, and weights that a trainer replaces with vLLM's own client."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.helpers.app import client_of, make_app
from tests.helpers.app_on_a_port import serve
from tests.helpers.fake_engine import FakeEngine
from tests.helpers.image_files import read_b64

from llamagen_server.api.routes import rollouts
from llamagen_server.pipeline.pipeline import Pipeline


@pytest.fixture
async def client(class_model_dir: Path) -> AsyncIterator[httpx.AsyncClient]:
    app = make_app(class_model_dir)
    app.include_router(rollouts.router)
    async with client_of(app) as client:
        client.pipeline = app.state.pipeline  # type: ignore[attr-defined]
        yield client


def pipeline_of(client: httpx.AsyncClient) -> Pipeline:
    pipeline: Pipeline = client.pipeline  # type: ignore[attr-defined]
    return pipeline


def engine_of(client: httpx.AsyncClient) -> FakeEngine:
    engine = pipeline_of(client).engine
    assert isinstance(engine, FakeEngine)
    return engine


BODY = {"class_ids": [3, 7], "n": 3, "seed": 10}


async def test_groups_with_seeds_and_log_probabilities(client: httpx.AsyncClient) -> None:
    reply = (await client.post("/rollouts", json=BODY | {"cfg_scale": 3, "cfg_interval": 4})).json()
    assert [[item["seed"] for item in group["rollouts"]] for group in reply["groups"]] == [[10, 11, 12], [13, 14, 15]]
    tokens = pipeline_of(client).model.config.num_image_tokens
    assert reply["cfg_scales"] == [3.0] * 6 + [1.0] * (tokens - 6)
    assert (reply["cfg_min_p"], reply["temperature"], reply["top_k"], reply["top_p"]) == (0.0, 1.0, 2000, 1.0)
    item = reply["groups"][1]["rollouts"][0]
    assert item["logprobs"] == [-1.0] * tokens
    assert item.keys() == {"seed", "codes", "logprobs"}
    assert reply["groups"][0]["weights_version"] == 0
    single = await client.post(
        "/generate", json={"class_id": 7, "seed": 13, "cfg_scale": 3, "response_format": "codes"}
    )
    assert single.json()["images"][0]["codes"] == item["codes"]


async def test_branches_and_images_when_asked_for(client: httpx.AsyncClient) -> None:
    reply = (await client.post("/rollouts", json=BODY | {"branch_logprobs": True, "images": True})).json()
    item = reply["groups"][0]["rollouts"][0]
    assert set(item["conditional_logprobs"]) == {-2.0}
    assert set(item["unconditional_logprobs"]) == {-3.0}
    assert np.asarray(read_b64(item["b64_json"])).shape == (64, 64, 3)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"n": 2}, "give prompts or class_ids, at least one"),
        ({"class_ids": []}, "give prompts or class_ids, at least one"),
        ({"class_ids": [1], "prompts": ["a"]}, "give prompts or class_ids, at least one"),
        ({"class_id": 1}, "rollouts have lists: give prompts or class_ids"),
        ({"class_ids": [1, 99]}, "class_id is 99, must be 0 to 9"),
        ({"class_ids": [1], "n": 0}, "n is 0"),
        ({"class_ids": [1], "n": 1025}, "n is 1025"),
        ({"class_ids": [1], "branch_logprobs": 3}, "branch_logprobs is 3"),
        ({"class_ids": [1], "stream": True}, "unknown field 'stream'"),
    ],
)
async def test_wrong_requests(client: httpx.AsyncClient, body: dict[str, Any], message: str) -> None:
    reply = await client.post("/rollouts", json=body)
    assert reply.status_code == 400
    assert message in reply.json()["error"]["message"]
    assert not engine_of(client).requests


async def test_a_pause_holds_requests_back(client: httpx.AsyncClient) -> None:
    engine = engine_of(client)
    engine.go_on.clear()
    running = asyncio.create_task(client.post("/generate", json={"class_id": 1, "response_format": "codes"}))
    await engine.until_requested(1)
    pausing = asyncio.create_task(client.post("/pause"))
    await asyncio.sleep(0.05)
    assert not pausing.done()  # an image is on its way
    engine.go_on.set()
    assert (await running).status_code == 200
    assert (await pausing).json() == {"message": "paused"}
    assert (await client.get("/is_paused")).json() == {"is_paused": True}
    waiting = asyncio.create_task(client.post("/generate", json={"class_id": 1, "response_format": "codes"}))
    await asyncio.sleep(0.05)
    assert len(engine.requests) == 1
    late = await client.post("/generate", json={"class_id": 1, "timeout": 0.1, "response_format": "codes"})
    assert late.status_code == 504
    await client.post("/pause")  # twice is once
    await client.post("/resume")
    assert (await waiting).status_code == 200
    assert (await client.get("/is_paused")).json() == {"is_paused": False}


async def test_requests_wait_while_the_engine_sleeps(
    client: httpx.AsyncClient, class_model_dir: Path, tmp_path: Path
) -> None:
    engine = engine_of(client)
    assert (await client.post("/sleep")).json() == {"status": "sleeping"}
    await client.post("/sleep?level=1")  # twice is once
    assert engine.sleeps == 1
    assert (await client.get("/is_sleeping")).json() == {"is_sleeping": True}
    waiting = asyncio.create_task(client.post("/generate", json={"class_id": 1, "response_format": "codes"}))
    file = tmp_path / "new.safetensors"
    save_file(load_file(class_model_dir / "model.safetensors"), file)
    await client.post("/start_weight_update")
    await client.post("/update_weights", json={"update_info": {"path": str(file)}})
    reply = await client.post("/finish_weight_update")
    assert reply.status_code == 400
    assert "wake it up before it gets new weights" in reply.json()["error"]["message"]
    assert not engine.requests
    for _ in range(2):
        assert (await client.post("/wake_up")).json() == {"status": "awake"}
    assert (await waiting).status_code == 200
    assert engine.sleeps == 0
    assert not engine.updates


async def test_an_engine_that_cannot_sleep_goes_on(client: httpx.AsyncClient) -> None:
    engine_of(client).can_sleep = False
    reply = await client.post("/sleep")
    assert reply.status_code == 400
    assert (await client.get("/is_sleeping")).json() == {"is_sleeping": False}
    assert (await client.post("/generate", json={"class_id": 1, "response_format": "codes"})).status_code == 200
    assert (await client.post("/sleep?level=2")).status_code == 400


async def test_an_update_is_all_or_nothing(client: httpx.AsyncClient, class_model_dir: Path, tmp_path: Path) -> None:
    async def fails(path: str, body: object, message: str) -> None:
        reply = await client.post(path, json=body)
        assert reply.status_code == 400, reply.text
        assert message in reply.json()["error"]["message"]

    file = tmp_path / "new.safetensors"
    save_file({"norm.weight": torch.zeros(3)}, file)
    await fails("/update_weights", {"update_info": {"path": str(file)}}, "call start_weight_update first")
    await fails("/finish_weight_update", {}, "call start_weight_update first")
    await client.post("/start_weight_update")
    await fails("/finish_weight_update", {}, "call update_weights before finish_weight_update")
    await fails("/update_weights", {"update_info": {"path": str(tmp_path)}}, "must be a file that this server can read")
    await fails("/update_weights", {"update_info": {"names": []}}, "update_info.")
    await client.post("/update_weights", json={"update_info": {"path": str(file)}})
    await fails("/finish_weight_update", {"weight_version": "seven"}, "weight_version is 'seven', must be a number")
    await fails("/finish_weight_update", {}, "tensors are missing")
    await fails("/init_weight_transfer_engine", {"init_info": {"master_port": 1}}, "init_info has master_port")
    assert not engine_of(client).updates
    assert (await client.get("/weight_info")).json() == {"weight_version": "0"}


def test_vllms_own_client_replaces_the_weights(class_model_dir: Path, tmp_path: Path) -> None:
    app = make_app(class_model_dir)
    app.include_router(rollouts.router)
    file = tmp_path / "new.safetensors"
    save_file(load_file(class_model_dir / "model.safetensors"), file)
    with serve(app) as url:
        client = importlib.import_module("vllm.distributed.weight_transfer.clients").HTTPVLLMWeightSyncClient(url)
        client.init_weight_transfer_engine({})
        client.shutdown_weight_transfer_engine()
        for version in (None, "40"):
            client.start_weight_update()
            client.update_weights({"path": str(file)})
            client.finish_weight_update(version)
        assert httpx.get(f"{url}/weight_info").json() == {"weight_version": "40"}
        group = httpx.post(f"{url}/rollouts", json=BODY).json()["groups"][0]
    assert group["weights_version"] == 40
    engine = app.state.pipeline.engine
    assert len(engine.updates) == 2
    assert not engine.updates[0].exists()
    assert (engine.updates[1] / "model.safetensors").resolve() == file
    app.state.pipeline.shutdown()
    assert not engine.updates[1].exists()


async def test_all_groups_are_accepted_together(client: httpx.AsyncClient) -> None:
    """Two keys have been seen, which bounds the share of each; the groups of a request are one piece of work."""
    pipeline = pipeline_of(client)
    for name in ("a", "b"):
        with pipeline.admission.hold(1, name):
            pass
    body = {"class_ids": [1] * 112, "n": 8}
    assert (await client.post("/rollouts", json=body)).status_code == 200
    too_many = await client.post("/rollouts", json={"class_ids": [1] * 129, "n": 8})
    assert too_many.status_code == 400
    assert "129 groups of 8 are 1032 images, must be at most 1024" in too_many.json()["error"]["message"]


async def test_paths_that_are_none(client: httpx.AsyncClient) -> None:
    await client.post("/start_weight_update")
    for path in ("x" * 5000, "/root/\0", "", "/nowhere"):
        reply = await client.post("/update_weights", json={"update_info": {"path": path}})
        assert reply.status_code == 400
        assert "must be a file that this server can read" in reply.json()["error"]["message"]


async def test_web_pages_are_refused(client: httpx.AsyncClient) -> None:
    reply = await client.post("/pause", headers={"origin": "https://example.com"})
    assert reply.status_code == 403
    assert not pipeline_of(client).is_paused


async def test_the_routes_are_there_only_when_asked_for(class_client: httpx.AsyncClient) -> None:
    for path in ("/rollouts", "/pause", "/update_weights"):
        assert (await class_client.post(path, json={})).status_code == 404
