"""What the scripts about load share: the server's resources, its metrics, and open-loop arrivals."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil
from tests.helpers.server_process import Server

from llamagen_server.bench.load import Load, arrival_times
from llamagen_server.bench.server_metrics import read_metrics


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
    """Returns the sum of some metrics over all labels."""
    samples = dict(await read_metrics(client))  # a name that is missing is an error
    return sum(samples[name, ""] for name in names)


@dataclass
class Replies:
    """Latencies and errors of one client's requests."""

    seconds: list[float] = field(default_factory=list)
    """Of those with status 200."""
    refused: int = 0
    wrong: list[str] = field(default_factory=list)
    """Replies that are neither 200 nor 429 or 503 in the format of errors."""

    def add(self, status: int, content: bytes, seconds: float) -> None:
        if status == 200:
            self.seconds.append(seconds)
        elif status in (429, 503) and json.loads(content)["error"].keys() == {"message", "type", "param", "code"}:
            self.refused += 1
        else:
            self.wrong.append(f"{status} {content[:200]!r}")

    def percentile(self, share: float) -> float:
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    def __str__(self) -> str:
        return (
            f"{len(self.seconds)} images, p50 {self.percentile(0.5):.2f} s, p99 {self.percentile(0.99):.2f} s, "
            f"{self.refused} refused"
        )


class FloodClient:
    """Sends requests at a tenth of the cost of httpx: server and client share the machine."""

    def __init__(self, url: str, key: str) -> None:
        self._host, port = url.removeprefix("http://").split(":")
        self._port = int(port)
        self._headers = f"host: {self._host}\r\nx-api-key: {key}\r\ncontent-type: application/json".encode()
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def send(self, body: dict[str, Any], replies: Replies) -> None:
        """As the function `send`."""
        start = time.monotonic()
        while self._idle and self._idle[-1][0].at_eof():  # closed by the server, which keeps idle ones for seconds
            self._idle.pop()[1].close()
        connection = self._idle.pop() if self._idle else await asyncio.open_connection(self._host, self._port)
        reader, writer = connection
        data = json.dumps(body).encode()
        writer.write(
            b"POST /generate HTTP/1.1\r\n%s\r\ncontent-length: %d\r\n\r\n%s" % (self._headers, len(data), data)
        )
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            status, length = int(head[9:12]), re.search(rb"content-length: (\d+)", head)
            assert length, head
            replies.add(status, await reader.readexactly(int(length[1])), time.monotonic() - start)
        except (OSError, EOFError) as error:
            replies.wrong.append(repr(error))
            return
        self._idle.append(connection)

    def close(self) -> None:
        for _, writer in self._idle:
            writer.close()


async def send(client: httpx.AsyncClient, body: dict[str, Any], replies: Replies) -> None:
    start = time.monotonic()
    try:
        reply = await client.post("/generate", json=body)
    except httpx.HTTPError as error:
        replies.wrong.append(repr(error))
        return
    replies.add(reply.status_code, reply.content, time.monotonic() - start)


async def open_loop(rate: float, seconds: float, request: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Starts requests as a Poisson process of ``rate`` per second, and waits for the last one."""
    start = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for due in arrival_times(Load(rate=rate, duration=seconds), random.Random(0)):
            await asyncio.sleep(max(0.0, start + due - time.monotonic()))
            group.create_task(request())


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
