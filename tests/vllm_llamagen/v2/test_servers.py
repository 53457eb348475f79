"""Servers: one on vLLM's V2 model runner with a decode window gives the codes of one on V1, also after a crash."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from tests.faults.requests import make_requests, send_all
from tests.helpers.image_files import png, read_b64
from tests.helpers.server_process import Server

pytestmark = pytest.mark.engine

V1, V2 = {"VLLM_USE_V2_MODEL_RUNNER": "0"}, {"VLLM_USE_V2_MODEL_RUNNER": "1", "TRITON_INTERPRET": "1"}
CONDITIONS = {
    "class": [{"class_id": i} for i in (3, 7)],
    "text": [{"prompt": "a red cat"}, {"prompt": "the large dog"}],
}


@pytest.fixture(scope="module", params=["text", pytest.param("class", marks=pytest.mark.long)])
def condition(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def serve(
    condition: str, class_model_dir: Path, text_model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., httpx.Client]]:
    """``serve(variables, *flags)`` starts a server and returns a client."""
    started: list[Server] = []
    clients: list[httpx.Client] = []

    def start(variables: dict[str, str], *flags: str) -> httpx.Client:
        model_dir = class_model_dir if condition == "class" else text_model_dir
        log = tmp_path_factory.mktemp("server") / "log"
        started.append(Server(model_dir, log, arguments=flags, variables=variables))
        clients.append(httpx.Client(base_url=started[-1].url, timeout=300))
        return clients[-1]

    yield start
    for client in clients:
        client.close()
    for server in started:
        server.kill()


@pytest.fixture(scope="module")
def v1(serve: Callable[..., httpx.Client]) -> httpx.Client:
    return serve(V1)


@pytest.fixture(scope="module")
def v2(serve: Callable[..., httpx.Client]) -> httpx.Client:
    return serve(V2, "--decode-window", "8")


def result(client: httpx.Client, **body: Any) -> list[dict[str, Any]]:
    asked = {"temperature": 0, "response_format": "codes", "logprobs": True, **body}
    reply = client.post("/generate", json=asked)
    assert reply.status_code == 200, reply.text
    return list(reply.json()["images"])


def assert_same(got: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert [image["codes"] for image in got] == [image["codes"] for image in expected]
    for image, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(image["logprobs"], other["logprobs"], atol=2e-4)


def test_greedy_codes_are_the_same(v1: httpx.Client, v2: httpx.Client, condition: str) -> None:
    asked = [
        {**one, "cfg_scale": scale} for one in CONDITIONS[condition] for scale in (1, 1.5, 2, 3, 4, 5, 6, 7.5, 9, 10)
    ]
    with ThreadPoolExecutor(len(asked)) as threads:
        got = list(threads.map(lambda body: result(v2, **body), asked))
        expected = list(threads.map(lambda body: result(v1, **body), asked))
    for images, others in zip(got, expected, strict=True):
        assert_same(images, others)


@pytest.mark.parametrize("more", [{"cfg_schedule": "cosine"}, {"cfg_interval": 20}, {"n": 3, "top_k": 7}])
def test_schedules_intervals_and_several_images(
    v1: httpx.Client, v2: httpx.Client, condition: str, more: dict[str, Any]
) -> None:
    asked = CONDITIONS[condition][0] | {"cfg_scale": 4} | more
    assert_same(result(v2, **asked), result(v1, **asked))


def test_edits_are_the_same(v1: httpx.Client, v2: httpx.Client, condition: str) -> None:
    image = png(Image.effect_noise((64, 64), 90).convert("RGB"))
    mask = Image.new("RGBA", (64, 64), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (20, 10, 60, 50))
    pixels = []
    for client in (v2, v1):
        fields = CONDITIONS[condition][0] | {"temperature": 0, "cfg_scale": 3}
        files = {"image": image, "mask": png(mask)}
        reply = client.post("/v1/images/edits", data={k: str(v) for k, v in fields.items()}, files=files)
        assert reply.status_code == 200, reply.text
        pixels.append(np.asarray(read_b64(reply.json()["data"][0]["b64_json"])))
    assert np.array_equal(*pixels)


def test_a_seed_gives_the_same_image_alone_and_in_company(v2: httpx.Client, condition: str) -> None:
    asked = CONDITIONS[condition][0] | {"cfg_scale": 2, "temperature": 1, "logprobs": False}
    several = result(v2, **asked, seed=5, n=3)
    assert [result(v2, **asked, seed=5 + i)[0]["codes"] for i in range(3)] == [image["codes"] for image in several]


@pytest.mark.parametrize("flags", [(), ("--decode-window", "8")], ids=["plain", "window"])
async def test_images_survive_their_engine(
    condition: str, flags: tuple[str, ...], class_model_dir: Path, text_model_dir: Path, tmp_path: Path
) -> None:
    """The codes so far are the prefix of the request to the next engine."""
    model_dir = class_model_dir if condition == "class" else text_model_dir
    server = Server(model_dir, tmp_path / "log", arguments=["--max-num-seqs", "4", *flags], variables=V2)
    try:
        requests = make_requests(12, condition)
        async with httpx.AsyncClient(base_url=server.url, timeout=300) as client:
            undisturbed = await send_all(client, requests, 12)
            sending = asyncio.create_task(send_all(client, requests, 12))
            await asyncio.sleep(1.5)
            assert not sending.done()
            server.engine().kill()
            disturbed = await sending
            metrics = (await client.get("/metrics")).text
        assert all(np.array_equal(a, b) for a, b in zip(disturbed, undisturbed, strict=True))
        assert 'llamagen_engine_restarts_total{how="ended"} 1.0' in metrics
    finally:
        server.kill()
