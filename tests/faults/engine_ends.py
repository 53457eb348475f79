"""The engine is killed and stopped at random moments, some of them while it restarts. Every image is right.

Slow; `make fault-test` runs it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from tests.faults.requests import Pixels, make_requests, send_all
from tests.faults.server_load import metric
from tests.helpers.server_process import Server
from tests.helpers.waiting import until

pytestmark = pytest.mark.engine
logger = logging.getLogger(__name__)

NUM_REQUESTS = 200
AT_A_TIME = 48
NUM_FAULTS = 5
FAULTS_WHILE_STARTING = (1, 3)
"""Numbers of the faults that meet an engine while it starts."""


class Faults:
    """Sends a signal to the engine ``NUM_FAULTS`` times while requests run."""

    def __init__(self, server: Server, kind: signal.Signals, num_finished: Callable[[], int]) -> None:
        self.server, self.kind, self.num_finished = server, kind, num_finished
        self.rng = random.Random(7)
        self.sent: list[int] = []
        """Process ids of the engines."""

    async def run(self) -> None:
        loaded = [i for i in range(NUM_FAULTS) if i not in FAULTS_WHILE_STARTING]
        due = dict(zip(loaded, sorted(self.rng.sample(range(10, NUM_REQUESTS - 60), len(loaded))), strict=True))
        for fault in range(NUM_FAULTS):
            if fault in FAULTS_WHILE_STARTING:
                engine = await self._new_engine()
                await asyncio.sleep(self.rng.uniform(0.5, 4))
            else:
                await until(lambda fault=fault: self._has_finished(due[fault]), 600)  # type: ignore[misc]
                engine = await self._new_engine()
            logger.info("%s to engine %d after %d images", self.kind.name, engine.pid, self.num_finished())
            engine.send_signal(self.kind)
            self.sent.append(engine.pid)

    async def _has_finished(self, count: int) -> bool:
        return self.num_finished() >= count

    async def _new_engine(self) -> psutil.Process:
        """Waits for an engine that has not got a signal yet."""
        while True:
            for child in psutil.Process(self.server.process.pid).children(recursive=True):
                try:
                    is_engine = any(word in " ".join(child.cmdline()) for word in ("spawn_main", "EngineCore"))
                except (psutil.NoSuchProcess, psutil.ZombieProcess):
                    continue
                if is_engine and child.pid not in self.sent:
                    return child
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("condition", ["text", "class"])
async def test_two_hundred_images(
    condition: str, kind: signal.Signals, text_model_dir: Path, class_model_dir: Path, tmp_path: Path
) -> None:
    """One image at a time in the engine: then nothing but the faults can change an image, and all must be equal."""
    model_dir = class_model_dir if condition == "class" else text_model_dir
    await check(model_dir, condition, kind, tmp_path, ["--max-num-seqs", "1"], most_different=0)


async def test_two_hundred_images_in_large_batches(tmp_path: Path) -> None:
    """Up to 32 at a time, the demo model. A batch of another size may flip a sample on the edge between two codes."""
    await check(None, "text", signal.SIGKILL, tmp_path, [], most_different=4)


async def check(
    model_dir: Path | None, condition: str, kind: signal.Signals, folder: Path, flags: list[str], most_different: int
) -> None:
    server = Server(model_dir, folder / "log", arguments=flags)
    requests = make_requests(NUM_REQUESTS, condition)
    images: list[Pixels | None] = [None] * NUM_REQUESTS
    try:
        async with httpx.AsyncClient(base_url=server.url, timeout=900) as client:
            expected = await send_all(client, requests, AT_A_TIME)
            places = asyncio.Semaphore(AT_A_TIME)

            async def one(number: int) -> None:
                async with places:
                    [images[number]] = await send_all(client, [requests[number]], 1)

            faults = Faults(server, kind, lambda: sum(image is not None for image in images))
            start = time.monotonic()
            await asyncio.gather(faults.run(), *(one(number) for number in range(NUM_REQUESTS)))
        seconds = time.monotonic() - start
        different = sum(not np.array_equal(image, right) for image, right in zip(images, expected, strict=True))
        logger.info("%s, %s: %d images in %.0f s, %d different", condition, kind.name, len(images), seconds, different)
        assert len(faults.sent) == NUM_FAULTS
        assert different <= most_different
    finally:
        server.kill()


async def test_a_fault_during_the_drain(text_model_dir: Path, tmp_path: Path) -> None:
    """SIGTERM with 48 images in flight, then SIGKILL of the engine: all get their images; the server exits with 0."""
    server = Server(text_model_dir, tmp_path / "log", arguments=["--shutdown-timeout", "300", "--max-num-seqs", "1"])
    requests = make_requests(AT_A_TIME, "text")
    async with httpx.AsyncClient(base_url=server.url, timeout=900, limits=httpx.Limits(max_connections=None)) as client:
        expected = await send_all(client, requests, AT_A_TIME)
        images = asyncio.create_task(send_all(client, requests, AT_A_TIME))

        async def all_are_accepted() -> bool:
            return await metric(client, "llamagen_images_in_flight") >= AT_A_TIME - 4  # the first ones are finished

        await until(all_are_accepted)
        engine = server.engine()
        server.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.2)
        engine.kill()
        for image, right in zip(await images, expected, strict=True):
            np.testing.assert_array_equal(image, right)
    assert server.process.wait(60) == 0
