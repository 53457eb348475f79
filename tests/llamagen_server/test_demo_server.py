"""The embedded demo model behind the real server: engine, text encoder, VQ decoder, HTTP."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from demo.captions import held_out_captions
from demo.checker import check
from PIL import Image

pytestmark = pytest.mark.engine


class Server:
    """``llamagen serve`` as a subprocess."""

    def __init__(self, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "llamagen_server", "serve", "--port", str(port), "--enforce-eager"]
        self.log = log
        self.process = subprocess.Popen(command, stdout=log.open("w"), stderr=subprocess.STDOUT)
        self.url = f"http://127.0.0.1:{port}"
        start = time.monotonic()
        while not self.is_ready():
            assert self.process.poll() is None, log.read_text()
            assert time.monotonic() - start < 180, log.read_text()
            time.sleep(0.2)

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health").status_code == 200
        except httpx.TransportError:
            return False


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server") / "log")
    yield server
    server.process.kill()
    server.process.wait()


def pixels(image: dict[str, Any]) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(image["b64_json"]))))


async def generate(client: httpx.AsyncClient, body: dict[str, Any]) -> np.ndarray:
    reply = await client.post("/generate", json=body)
    assert reply.status_code == 200, reply.text
    return pixels(reply.json()["images"][0])


def requests(count: int, **fields: Any) -> list[dict[str, Any]]:
    """Requests with different prompts, scales and seeds."""
    draw = random.Random(0)
    captions = [caption.text for caption in held_out_captions(count)]
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


async def test_pictures_show_what_their_captions_say_and_guidance_helps(server: Server) -> None:
    captions = held_out_captions(48)

    async def share(cfg_scale: float | None) -> float:
        async with httpx.AsyncClient(base_url=server.url, timeout=300) as client:
            bodies = [{"prompt": c.text, "seed": i} for i, c in enumerate(captions)]
            if cfg_scale is not None:
                bodies = [{**body, "cfg_scale": cfg_scale} for body in bodies]
            images = await asyncio.gather(*(generate(client, body) for body in bodies))
        return float(np.mean([not check(image, c.attributes) for image, c in zip(images, captions, strict=True)]))

    guided, unguided = await share(None), await share(1.0)
    assert guided >= 0.85
    assert guided > unguided


async def test_one_picture_takes_less_than_five_seconds(server: Server) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        start = time.monotonic()
        await generate(client, {"prompt": "a large red circle"})
        assert time.monotonic() - start < 5


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
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.url}/generate", json={"prompt": "a red circle", "n": 10}, timeout=0.1)
    assert httpx.post(f"{server.url}/generate", json={"prompt": "a red circle"}, timeout=60).status_code == 200


def test_ctrl_c_stops_it_cleanly_and_the_log_is_readable(server: Server) -> None:
    """Runs last: one line per request, no traceback, no process left behind."""
    children = subprocess.run(["pgrep", "-P", str(server.process.pid)], capture_output=True, text=True).stdout.split()
    assert children
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(60) == 0
    assert not any(os.path.exists(f"/proc/{child}") for child in children)
    log = server.log.read_text()
    assert re.search(r"llamagen-demo is ready after \d+ s: http://127", log)
    assert re.search(r"[0-9a-f]{32} POST /generate 200 \d+ ms", log)
    assert "Traceback" not in log
    assert log.rstrip().endswith("stopped")
