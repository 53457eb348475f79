"""``llamagen run-batch`` on a real engine: killed twice, it ends with every image once, each as by HTTP."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from tests.helpers.server_process import Server

pytestmark = [pytest.mark.engine, pytest.mark.slow]

LINES = 300
PER_KILL = (10, 60)
"""Least and most replies before a run is killed."""
MAX_FLIPPED = 1
"""Both batch the requests differently, so rounding may flip a sample on the edge between two codes."""
VARYING = ("created", "id", "timings")
"""Fields of a reply that differ between two equal requests."""


def requests() -> list[dict[str, Any]]:
    """Requests to both endpoints, with different classes, scales and seeds."""
    rng = random.Random(0)
    return [
        {
            "custom_id": f"image-{i}",
            "method": "POST",
            "url": rng.choice(["/v1/images/generations", "/generate"]),
            "body": {"class_id": i % 10, "seed": i, "cfg_scale": rng.choice([1.0, 1.5, 2.0, 4.0])},
        }
        for i in range(LINES)
    ]


def run_batch(model: Path, source: Path, out: Path, log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "llamagen_server", "run-batch", str(model), "--enforce-eager"]
    with log.open("a") as output:
        return subprocess.Popen([*command, "-i", str(source), "-o", str(out)], stderr=output, start_new_session=True)


def complete_lines(out: Path) -> bytes:
    """The file without a last line that is not complete."""
    content = out.read_bytes() if out.exists() else b""
    return content[: content.rfind(b"\n") + 1]


def kill_after(process: subprocess.Popen[bytes], out: Path, replies: int, log: Path) -> None:
    """Kills a run outright, some time after it wrote so many replies. Its engine must not outlive it."""
    before, start = complete_lines(out).count(b"\n"), time.monotonic()
    while complete_lines(out).count(b"\n") < before + replies:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() - start < 600, log.read_text()
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.3))
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(children, 20)
    assert not [child for child in alive if child.status() != psutil.STATUS_ZOMBIE]


async def replies_by_http(url: str, lines: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    places = asyncio.Semaphore(64)
    async with httpx.AsyncClient(base_url=url, timeout=None) as client:

        async def send(line: dict[str, Any]) -> dict[str, Any]:
            async with places:
                return (await client.post(line["url"], json=line["body"])).raise_for_status().json()

        bodies = await asyncio.gather(*(send(line) for line in lines))
    return {line["custom_id"]: without_varying(body) for line, body in zip(lines, bodies, strict=True)}


def without_varying(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name not in VARYING}


async def test_a_batch_that_is_killed_twice_ends_with_every_image_once_as_by_http(
    class_model_dir: Path, tmp_path: Path
) -> None:
    source, out, log = tmp_path / "in.jsonl", tmp_path / "out.jsonl", tmp_path / "log"
    lines = requests()
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    kept = []
    for _ in range(2):
        kill_after(run_batch(class_model_dir, source, out, log), out, random.randint(*PER_KILL), log)
        kept.append(complete_lines(out))
    assert run_batch(class_model_dir, source, out, log).wait(600) == 0, log.read_text()

    content = out.read_bytes()
    assert kept[1].startswith(kept[0])
    assert content.startswith(kept[1])
    assert 0 < kept[0].count(b"\n") < kept[1].count(b"\n") < LINES
    replies = [json.loads(line) for line in content.splitlines()]
    assert len(replies) == LINES
    assert {reply["response"]["status_code"] for reply in replies} == {200}
    bodies = {reply["custom_id"]: without_varying(reply["response"]["body"]) for reply in replies}
    assert bodies.keys() == {line["custom_id"] for line in lines}

    server = Server(class_model_dir, tmp_path / "server.log")
    try:
        by_http = await replies_by_http(server.url, lines)
    finally:
        server.kill()
    different = [custom_id for custom_id, body in bodies.items() if body != by_http[custom_id]]
    assert len(different) <= MAX_FLIPPED, different
