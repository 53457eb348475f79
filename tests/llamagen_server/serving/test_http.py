"""The real server as a process: engine, text encoder, VQ decoder, HTTP, signals."""

from __future__ import annotations

import asyncio
import base64
import concurrent.futures
import io
import os
import random
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image
from tests.helpers.serving import Server

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def server(text_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(text_model_dir, tmp_path_factory.mktemp("server") / "log")
    yield server
    server.kill()


def pixels(image: dict[str, Any]) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(image["b64_json"]))))


async def generate(client: httpx.AsyncClient, body: dict[str, Any]) -> np.ndarray:
    reply = await client.post("/generate", json=body)
    assert reply.status_code == 200, reply.text
    return pixels(reply.json()["images"][0])


def requests(count: int, **fields: Any) -> list[dict[str, Any]]:
    """Requests with different prompts, scales and seeds."""
    draw = random.Random(0)
    words = ["red", "green", "blue", "small", "large", "circle", "square", "star", "photo", "cat", "dog"]
    captions = [" ".join(draw.sample(words, draw.randint(1, 8))) for _ in range(count)]
    return [
        {"prompt": text, "cfg_scale": draw.choice([1.0, 1.5, 2.0, 3.0, 4.0]), "seed": draw.randrange(1000), **fields}
        for text in captions
    ]


async def together_and_alone(server: Server, bodies: list[dict[str, Any]]) -> list[bool]:
    """Sends requests at once and then one by one; which pictures are the same to the byte."""
    async with httpx.AsyncClient(base_url=server.url, timeout=300) as client:
        together = await asyncio.gather(*(generate(client, body) for body in bodies))
        alone = [await generate(client, body) for body in bodies]
    return [np.array_equal(a, b) for a, b in zip(together, alone, strict=True)]


async def test_a_picture_does_not_depend_on_its_batch_mates(server: Server) -> None:
    assert all(await together_and_alone(server, requests(16, temperature=0)))


async def test_nor_does_a_seeded_one(server: Server) -> None:
    """Float noise may flip a draw that lies on the edge between two codes; it has to stay rare."""
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
def test_bad_input_is_answered_and_the_server_goes_on(server: Server, body: bytes, message: str) -> None:
    reply = httpx.post(f"{server.url}/generate", content=body, headers={"content-type": "application/json"})
    assert reply.status_code == 400
    assert message in reply.json()["error"]["message"]
    assert httpx.get(f"{server.url}/health").status_code == 200


def test_a_client_that_leaves_stops_the_engines_work(server: Server) -> None:
    """Two hundred abandoned pictures would take far longer than one."""

    def seconds() -> float:
        start = time.monotonic()
        reply = httpx.post(f"{server.url}/generate", json={"prompt": "a red circle"}, timeout=120)
        assert reply.status_code == 200
        return time.monotonic() - start

    def leave(client: httpx.Client) -> bool:
        try:
            client.post("/generate", json={"prompt": "a red circle", "n": 10})
        except httpx.ReadTimeout:
            return True
        return False

    alone = seconds()
    limits = httpx.Limits(max_connections=20)
    with (
        httpx.Client(base_url=server.url, timeout=httpx.Timeout(30, read=0.3), limits=limits) as client,
        concurrent.futures.ThreadPoolExecutor(20) as threads,
    ):
        left = sum(threads.map(leave, [client] * 20))
    assert left >= 10
    assert seconds() < 5 * alone + 2
    assert server.log.read_text().count("POST /generate 499") == left


def test_ctrl_c_lets_requests_finish_and_the_log_is_readable(server: Server) -> None:
    """Runs last. A terminal sends Ctrl-C to the whole process group."""
    engine = psutil.Process(server.process.pid).children(recursive=True)
    assert engine
    with concurrent.futures.ThreadPoolExecutor(4) as client:
        body = {"prompt": "a red circle", "n": 10}
        replies = [client.submit(httpx.post, f"{server.url}/generate", json=body, timeout=120) for _ in range(4)]
        deadline = time.monotonic() + 30
        while httpx.get(f"{server.url}/load").json()["server_load"] < 40:  # all of them are accepted
            assert time.monotonic() < deadline
        assert not any(reply.done() for reply in replies)
        os.killpg(server.process.pid, signal.SIGINT)
        assert [reply.result().status_code for reply in replies] == [200] * 4
    assert server.process.wait(60) == 0
    _, alive = psutil.wait_procs(engine, 20)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
    log = server.log.read_text()
    assert re.search(r"model is ready after \d+ s: http://127", log)
    assert re.search(r"[0-9a-f]{32} POST /generate 200 \d+ ms", log)
    assert "Traceback" not in log
    assert log.rstrip().endswith("stopped")


def test_stopping_while_it_loads(text_model_dir: Path, tmp_path: Path) -> None:
    server = Server(text_model_dir, tmp_path / "log", wait=False)
    while "loading" not in server.log.read_text():
        time.sleep(0.1)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(30) == 0
    assert server.log.read_text().rstrip().endswith("stopped while loading")


def test_a_server_without_engine_ends(text_model_dir: Path, tmp_path: Path) -> None:
    server = Server(text_model_dir, tmp_path / "log")
    for process in psutil.Process(server.process.pid).children(recursive=True):
        process.kill()
    assert server.process.wait(60) == 1
    assert "llamagen serve: the engine stopped; see the server's log" in server.log.read_text()
