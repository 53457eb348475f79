"""Half an hour at 80 % of saturation: memory, file handles and tasks do not grow. The plot goes to ``SOAK_PLOT``."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import time
from contextlib import suppress
from pathlib import Path
from statistics import quantiles

import httpx
import pytest
from matplotlib.figure import Figure
from tests.faults.server_load import Replies, closed_loop, metric, open_loop, resources, send
from tests.helpers.server_process import Server

pytestmark = pytest.mark.engine
logger = logging.getLogger(__name__)

SECONDS = 1800
LOAD = 0.8
TITLES = ("Memory (MiB)", "File handles", "Tasks of the event loop")

Sample = tuple[float, float, float, float]
"""Minutes, MiB, file handles, tasks."""


async def test_nothing_grows(tmp_path: Path) -> None:
    server = Server(None, tmp_path / "log")
    samples: list[Sample] = []
    replies, seeds = Replies(), itertools.count()
    try:
        async with httpx.AsyncClient(
            base_url=server.url, timeout=300, limits=httpx.Limits(max_connections=None)
        ) as client:

            async def request() -> None:
                number = next(seeds)
                body = {"prompt": f"a {('red', 'green', 'blue')[number % 3]} circle {number}", "seed": number}
                if number % 10:
                    await send(client, body, replies)
                    return
                with suppress(TimeoutError):  # one in ten vanishes
                    async with asyncio.timeout(0.3):
                        await send(client, body, replies)

            rate = LOAD * await closed_loop(32, 60, request)
            sampling = asyncio.create_task(sample(client, server, samples))
            await open_loop(rate, SECONDS, request)
            sampling.cancel()
        plot(samples, os.environ.get("SOAK_PLOT", str(tmp_path / "soak.png")))
        quarter = len(samples) // 4
        for column, title in enumerate(TITLES, 1):
            second, last = (floor(part, column) for part in (samples[quarter : 2 * quarter], samples[-quarter:]))
            logger.info("%s: %.0f in the second quarter, %.0f in the last", title, second, last)
            assert last <= 1.03 * second + 2, title
        logger.info("%.2f images/s for %d s: %s", rate, SECONDS, replies)
        assert replies.wrong == []
        assert replies.refused == 0
    finally:
        server.kill()


def floor(samples: list[Sample], column: int) -> float:
    """The value that nine in ten samples exceed: what remains when few requests are in flight, whose number varies."""
    return quantiles((s[column] for s in samples), n=10)[0]


async def sample(client: httpx.AsyncClient, server: Server, samples: list[Sample]) -> None:
    start = time.monotonic()
    while True:
        used = resources(server)
        tasks = await metric(client, "llamagen_event_loop_tasks")
        samples.append(((time.monotonic() - start) / 60, used.memory / 2**20, used.files, tasks))
        await asyncio.sleep(10)


def plot(samples: list[Sample], file: str) -> None:
    figure = Figure(figsize=(9, 7), layout="constrained")
    for column, title in enumerate(TITLES, 1):
        axes = figure.add_subplot(3, 1, column)
        axes.plot([s[0] for s in samples], [s[column] for s in samples])
        axes.set(title=title, ylim=(0, 1.2 * max(s[column] for s in samples)))
    axes.set_xlabel("Minutes")
    figure.savefig(file, dpi=100)
