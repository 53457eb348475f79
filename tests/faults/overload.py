"""Ten times the load that a server can do, for three minutes, beside a client that sends little."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from tests.faults.server_load import FloodClient, Replies, closed_loop, open_loop, resources
from tests.helpers.server_process import Server

pytestmark = pytest.mark.engine
logger = logging.getLogger(__name__)

SECONDS = 180
DEADLINE = 30
QUIET_SHARE = 0.05
"""Load of the quiet client, as a share of saturation."""
WARM_UP = 20
"""Seconds until the queue is full."""
BATCH = 32
"""Default of ``--max-num-seqs`` on a CPU."""


async def test_overload_harms_neither_the_server_nor_the_other_client(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("loud\nquiet\n")
    flags = ["--api-key-file", str(keys), "--default-timeout", str(DEADLINE)]
    server = Server(None, tmp_path / "log", arguments=flags)
    try:
        loud, quiet = FloodClient(server.url, "loud"), FloodClient(server.url, "quiet")
        await closed_loop(32, 10, requests(loud, Replies()))
        saturation = await closed_loop(64, 60, requests(loud, Replies()))
        alone, beside, flood = Replies(), Replies(), Replies()
        await open_loop(QUIET_SHARE * saturation, 120, requests(quiet, alone))
        before = resources(server)
        flooding = asyncio.create_task(open_loop(10 * saturation, SECONDS, requests(loud, flood)))
        await asyncio.sleep(WARM_UP)
        finished = len(flood.seconds)
        await open_loop(QUIET_SHARE * saturation, SECONDS - WARM_UP, requests(quiet, beside))
        throughput = (len(flood.seconds) - finished + len(beside.seconds)) / (SECONDS - WARM_UP)
        during = resources(server)
        await flooding
        loud.close()
        quiet.close()
        in_a_batch = BATCH / saturation
        logger.info("saturation %.2f images/s; under ten times that: %.2f images/s", saturation, throughput)
        logger.info("quiet alone: %s; beside the flood: %s; the flood: %s", alone, beside, flood)
        logger.info("an image takes %.2f s in a full batch", in_a_batch)
        logger.info("memory %.0f -> %.0f MiB", before.memory / 2**20, during.memory / 2**20)
        assert flood.wrong == beside.wrong == []
        assert max(flood.percentile(0.99), beside.percentile(0.99)) <= DEADLINE
        assert during.memory < before.memory + 500 * 2**20
        # Refusing 170 requests a second costs a tenth of two cores that the images would use.
        assert throughput >= 0.75 * saturation
        # A batch is shared: beside 31 others an image takes longer than alone, whoever they belong to.
        assert beside.percentile(0.99) <= 2 * (alone.percentile(0.99) + in_a_batch)
    finally:
        server.kill()


def requests(client: FloodClient, replies: Replies) -> Callable[[], Coroutine[Any, Any, None]]:
    seeds = itertools.count()
    return lambda: client.send({"prompt": "a red circle", "seed": next(seeds)}, replies)
