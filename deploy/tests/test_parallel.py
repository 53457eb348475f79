"""A server whose engine has two workers: one model in two halves, or two models side by side."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.helpers.engine_flags import needs_two_devices
from tests.helpers.server_process import Server

pytestmark = [pytest.mark.engine, needs_two_devices]
BODIES = [
    {"prompt": prompt, "n": 2, "cfg_scale": scale, "temperature": 0, "seed": 1, "response_format": "codes"}
    for prompt, scale in (("a large red circle", 3.0), ("a green square and a blue circle", 1.5), ("a star", 0.0))
]


async def codes(url: str) -> list[list[int]]:
    """Greedy codes of all images, generated at the same time."""
    async with httpx.AsyncClient(base_url=url, timeout=300) as client:
        replies = await asyncio.gather(*(client.post("/generate", json=body) for body in BODIES))
    return [image["codes"] for reply in replies for image in reply.raise_for_status().json()["images"]]


def finished(url: str) -> dict[str, float]:
    """Requests that each engine has finished."""
    families = text_string_to_metric_families(httpx.get(f"{url}/metrics").text)
    samples = [sample for family in families if family.name == "vllm:request_success" for sample in family.samples]
    return {
        sample.labels["engine"]: sample.value
        for sample in samples
        if sample.name.endswith("_total") and sample.labels["finished_reason"] == "length"
    }


@pytest.mark.parametrize("flag", ["--tensor-parallel-size", "--data-parallel-size"])
async def test_two_workers_give_the_codes_of_one(demo_url: str, tmp_path: Path, flag: str) -> None:
    server = Server(None, tmp_path / "log", arguments=[flag, "2"])
    try:
        assert await codes(server.url) == await codes(demo_url)
        if flag == "--data-parallel-size":
            assert finished(server.url).keys() == {"0", "1"}
            assert min(finished(server.url).values()) >= 1  # both work
        server.process.terminate()
        assert server.process.wait(120) == 0
    finally:
        server.kill()
