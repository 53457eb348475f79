"""What the scripts about load share: the server's resources, its metrics, and open-loop arrivals."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families
from tests.helpers.server_process import Server


@dataclass(frozen=True)
class Resources:
    """Of the server and its engine."""

    memory: int
    """Resident bytes."""
    files: int
    """File handles."""


def resources(server: Server) -> Resources:
    process = psutil.Process(server.process.pid)
    processes = [process, *process.children(recursive=True)]
    return Resources(sum(p.memory_info().rss for p in processes), sum(p.num_fds() for p in processes))


async def metric(client: httpx.AsyncClient, *names: str) -> float:
    """Returns the sum of the samples of some metrics."""
    text = (await client.get("/metrics")).text
    samples = [s.value for family in text_string_to_metric_families(text) for s in family.samples if s.name in names]
    assert samples, names
    return sum(samples)


@dataclass
class Replies:
    """Latencies and errors of one client's requests."""

    seconds: list[float] = field(default_factory=list)
    """Of those with status 200, sorted by `summary`."""
    refused: int = 0
    wrong: list[str] = field(default_factory=list)
    """Replies that are neither 200 nor 429 or 503 in the format of errors."""

    def percentile(self, share: float) -> float:
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    def __str__(self) -> str:
        return (
            f"{len(self.seconds)} images, p50 {self.percentile(0.5):.2f} s, p99 {self.percentile(0.99):.2f} s, "
            f"{self.refused} refused"
        )


async def send(client: httpx.AsyncClient, body: dict[str, Any], replies: Replies) -> None:
    start = time.monotonic()
    try:
        reply = await client.post("/generate", json=body)
    except httpx.HTTPError as error:
        replies.wrong.append(repr(error))
        return
    if reply.status_code == 200:
        replies.seconds.append(time.monotonic() - start)
    elif reply.status_code in (429, 503) and reply.json()["error"].keys() == {"message", "type", "param", "code"}:
        replies.refused += 1
    else:
        replies.wrong.append(f"{reply.status_code} {reply.text[:200]}")


async def open_loop(rate: float, seconds: float, request: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Starts requests as a Poisson process of ``rate`` per second, and waits for the last one."""
    rng = random.Random(0)
    due = time.monotonic()
    end = due + seconds
    async with asyncio.TaskGroup() as group:
        while due < end:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            group.create_task(request())
            due += rng.expovariate(rate)


async def closed_loop(clients: int, seconds: float, request: Callable[[], Coroutine[Any, Any, None]]) -> float:
    """Keeps ``clients`` requests in flight. Returns requests per second, without those that end after the time."""
    start, finished = time.monotonic(), 0

    async def one_client() -> None:
        nonlocal finished
        while time.monotonic() < start + seconds:
            await request()
            finished += time.monotonic() < start + seconds

    await asyncio.gather(*(one_client() for _ in range(clients)))
    return finished / seconds
