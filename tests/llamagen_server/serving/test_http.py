"""The real server as a process: engine, text encoder, VQ decoder, HTTP, signals."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.helpers.image_files import read_b64
from tests.helpers.server_process import Server
from tests.helpers.waiting import until

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def server(text_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(text_model_dir, tmp_path_factory.mktemp("server") / "log")
    yield server
    server.kill()


async def generate(client: httpx.AsyncClient, body: dict[str, Any]) -> np.ndarray:
    reply = await client.post("/generate", json=body)
    assert reply.status_code == 200, reply.text
    return np.asarray(read_b64(reply.json()["images"][0]["b64_json"]))


def requests(count: int, **fields: Any) -> list[dict[str, Any]]:
    """Requests with different prompts, scales and seeds."""
    rng = random.Random(0)
    words = ["red", "green", "blue", "small", "large", "circle", "square", "star", "photo", "cat", "dog"]
    captions = [" ".join(rng.sample(words, rng.randint(1, 8))) for _ in range(count)]
    return [
        {"prompt": text, "cfg_scale": rng.choice([1.0, 1.5, 2.0, 3.0, 4.0]), "seed": rng.randrange(1000), **fields}
        for text in captions
    ]


async def test_every_image_that_asks_for_guidance_gets_it(server: Server) -> None:
    """Counted in the engine's process, where the branches are mixed."""
    guided, conditional = [await metric(server, "llamagen_guided_images_total", branches) for branches in ("2", "1")]
    bodies = [{"prompt": "a red circle", "n": 3, "cfg_scale": scale} for scale in (4.0, 1.0, 1.5)]
    async with httpx.AsyncClient(base_url=server.url, timeout=300) as client:
        await asyncio.gather(*(generate(client, body) for body in bodies))

    async def are_counted() -> bool:
        return await metric(server, "llamagen_guided_images_total", "1") >= conditional + 3

    await until(are_counted)
    assert await metric(server, "llamagen_guided_images_total", "2") == guided + 6
    assert await metric(server, "llamagen_guided_images_total", "1") == conditional + 3
    assert await metric(server, "llamagen_unguided_total") == 0


async def together_and_alone(server: Server, bodies: list[dict[str, Any]]) -> list[bool]:
    """Sends requests concurrently, then one by one; True for each image that is the same to the byte."""
    async with httpx.AsyncClient(base_url=server.url, timeout=300) as client:
        together = await asyncio.gather(*(generate(client, body) for body in bodies))
        alone = [await generate(client, body) for body in bodies]
    return [np.array_equal(a, b) for a, b in zip(together, alone, strict=True)]


async def test_an_image_does_not_depend_on_its_batch(server: Server) -> None:
    assert all(await together_and_alone(server, requests(16, temperature=0)))


async def test_a_seeded_image_does_not_depend_on_its_batch(server: Server) -> None:
    """Rounding may flip a sample on the edge between two codes; that has to stay rare."""
    equal = await together_and_alone(server, requests(16))
    assert sum(equal) >= 15


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"prompt": "x", "cfg_scale": "four"}', "cfg_scale is 'four'"),
        (b'{"prompt": "x", "n": 11}', "n is 11"),
        (b'{"prompt": ""}', "the prompt is empty"),
        (b'{"class_id": 3}', "not from a class"),
        (b'{"prompt": "x"', "not valid JSON"),
        ((b'{"prompt": "' + b"red circle " * 100 + b'"}'), "tokens, at most"),
    ],
)
def test_bad_input_is_refused_and_the_server_goes_on(server: Server, body: bytes, message: str) -> None:
    reply = httpx.post(f"{server.url}/generate", content=body, headers={"content-type": "application/json"})
    assert reply.status_code == 400
    assert message in reply.json()["error"]["message"]
    assert httpx.get(f"{server.url}/health").status_code == 200


async def test_clients_that_disconnect_stop_the_engines_work(server: Server) -> None:
    """A thousand abandoned images: the engine must not finish them, and no place may stay taken."""
    finished = await metric(server, "llamagen_images_total")
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=server.url, timeout=300, limits=limits) as client:
        body = {"prompt": "a red circle", "n": 10}
        tasks = [asyncio.create_task(client.post("/generate", json=body)) for _ in range(100)]
        await until(lambda: accepted(server, finished, 1000))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def is_idle() -> bool:
        return await metric(server, "llamagen_images_in_flight") == 0

    await until(is_idle)
    assert await metric(server, "llamagen_images_total") - finished < 1000
    assert server.log.read_text().count("POST /generate 499") > 0


async def accepted(server: Server, finished: float, images: int) -> bool:
    """Whether ``images`` images have been accepted since ``finished`` images were finished."""
    in_flight = await metric(server, "llamagen_images_in_flight")
    return in_flight + await metric(server, "llamagen_images_total") - finished >= images


async def metric(server: Server, name: str, label: str | None = None) -> float:
    """The sum of a metric's samples, or of those with a label of this value."""
    async with httpx.AsyncClient(base_url=server.url, timeout=300) as client:
        text = (await client.get("/metrics")).text
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples if s.name == name]
    samples = [s for s in samples if label is None or label in s.labels.values()]
    assert samples, name
    return sum(sample.value for sample in samples)


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGSTOP])
async def test_requests_survive_an_engine_that_dies_or_hangs(server: Server, kind: signal.Signals) -> None:
    """Greedy images: they depend on their batch least."""
    bodies = requests(24, temperature=0)
    resumed = await metric(server, "llamagen_images_resumed_total")
    async with httpx.AsyncClient(base_url=server.url, timeout=300) as client:
        expected = [await generate(client, body) for body in bodies[:4]]
        images = [asyncio.create_task(generate(client, body)) for body in bodies]
        engine = server.engine()

        async def most_are_in_flight() -> bool:  # on a slow machine, the first are finished before the last begin
            return await metric(server, "llamagen_images_in_flight") > len(bodies) / 2

        await until(most_are_in_flight)
        engine.send_signal(kind)

        async def is_restarting() -> bool:
            return (await client.get("/ready")).status_code == 503

        await until(is_restarting)
        assert (await client.get("/health")).status_code == 200
        assert await metric(server, "llamagen_ready") == 0
        for image, right in zip([await image for image in images], expected, strict=False):
            np.testing.assert_array_equal(image, right)
        assert (await client.get("/ready")).status_code == 200
    assert not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE
    assert await metric(server, "llamagen_images_resumed_total") > resumed


async def test_a_stream_survives_its_engine(server: Server) -> None:
    """Previews come in order, none twice."""
    body = {"prompt": "a red circle", "seed": 3, "temperature": 0, "n": 4, "stream": True, "partial_images": 8}
    async with httpx.AsyncClient(base_url=server.url, timeout=300) as client:
        calm = await events(client, body)
        disturbed = await events(client, body, after_first=lambda: server.engine().kill())
    assert await metric(server, "llamagen_engine_restarts_total") > 0
    for index in range(4):
        expected, seen = ([e for e in all_events if e.get("index") == index] for all_events in (calm, disturbed))
        assert [e.get("partial_image_index") for e in seen] == [*range(8), None]
        assert seen[-1]["b64_json"] == expected[-1]["b64_json"]


async def events(
    client: httpx.AsyncClient, body: dict[str, Any], after_first: Callable[[], None] = lambda: None
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    async with client.stream("POST", "/generate", json=body) as reply:
        async for line in reply.aiter_lines():
            if line.startswith("data: "):
                found.append(json.loads(line.removeprefix("data: ")))
                if len(found) == 1:
                    after_first()
    return found


async def test_ctrl_c_lets_requests_finish_and_the_log_is_readable(server: Server) -> None:
    """Runs last. A terminal sends Ctrl-C to the whole process group."""
    engine = psutil.Process(server.process.pid).children(recursive=True)
    assert engine
    finished = await metric(server, "llamagen_images_total")
    async with httpx.AsyncClient(base_url=server.url, timeout=300) as client:
        body = {"prompt": "a red circle", "n": 10}
        replies = [asyncio.create_task(client.post("/generate", json=body)) for _ in range(4)]
        await until(lambda: accepted(server, finished, 40))
        os.killpg(server.process.pid, signal.SIGINT)
        assert [(await reply).status_code for reply in replies] == [200] * 4
    assert server.process.wait(60) == 0
    _, alive = psutil.wait_procs(engine, 20)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
    log = server.log.read_text()
    assert re.search(r"model is ready after \d+ s: http://127", log)
    assert re.search(r"[0-9a-f]{32} POST /generate 200 \d+ ms", log)
    assert log.rstrip().endswith("stopped")


def test_stopping_while_loading(text_model_dir: Path, tmp_path: Path) -> None:
    server = Server(text_model_dir, tmp_path / "log", wait=False)
    while "loading" not in server.log.read_text():
        assert server.process.poll() is None
        time.sleep(0.1)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(30) == 0
    assert server.log.read_text().rstrip().endswith("stopped while loading")


def test_the_server_ends_with_its_engine_if_it_may_not_restart_it(text_model_dir: Path, tmp_path: Path) -> None:
    server = Server(text_model_dir, tmp_path / "log", arguments=["--max-restarts", "0"])
    server.engine().kill()
    assert server.process.wait(60) == 1
    message = "llamagen serve: the engine ended and is not restarted (--max-restarts 0); see the log above"
    assert message in server.log.read_text()
