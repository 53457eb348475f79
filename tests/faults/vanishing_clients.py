"""A third of 500 clients disconnects at a random moment: nothing of their requests is left."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from tests.faults.server_load import Replies, metric, resources, send
from tests.helpers.server_process import Server

pytestmark = pytest.mark.engine
logger = logging.getLogger(__name__)

NUM_REQUESTS = 500
AT_A_TIME = 64
RUNNING = ("llamagen_images_in_flight", "vllm:num_requests_running", "vllm:num_requests_waiting")
NO_LIMITS = httpx.Limits(max_connections=None)


async def test_clients_that_vanish_leave_nothing_behind(tmp_path: Path) -> None:
    server = Server(None, tmp_path / "log")
    rng = random.Random(3)
    try:
        async with httpx.AsyncClient(base_url=server.url, timeout=300, limits=NO_LIMITS) as client:
            calm, _ = await send_with_vanishing(client, 200, rng, math.inf)  # what work needs is allocated
            before = resources(server)
            replies, vanished = await send_with_vanishing(client, NUM_REQUESTS, rng, calm.percentile(0.5))
            left = []
            for _ in range(10):
                left.append(await metric(client, *RUNNING))
                if not left[-1]:
                    break
                await asyncio.sleep(0.1)
            after = resources(server)
        growth = after.memory / before.memory - 1
        logger.info("%s, %d vanished; in flight afterwards: %s", replies, vanished, left)
        logger.info("memory %+.1f %%, file handles %d -> %d", 100 * growth, before.files, after.files)
        assert replies.wrong == []
        assert len(replies.seconds) == NUM_REQUESTS - vanished
        assert vanished > NUM_REQUESTS / 4
        assert left[-1] == 0
        assert growth < 0.05
    finally:
        server.kill()


async def send_with_vanishing(
    client: httpx.AsyncClient, count: int, rng: random.Random, longest: float
) -> tuple[Replies, int]:
    """Every third client disconnects after a time of up to ``longest`` seconds. Returns how many did."""
    replies, vanished, places = Replies(), 0, asyncio.Semaphore(AT_A_TIME)

    async def one(number: int) -> None:
        nonlocal vanished
        body = {"prompt": "a red circle", "seed": number, "stream": False}
        async with places:
            if number % 3:
                await send(client, body, replies)
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(rng.uniform(0.05, 1) * longest):
                    await send(client, body, replies)
                    return
            vanished += 1

    await asyncio.gather(*(one(number) for number in range(count)))
    return replies, vanished
