"""Ten times the load that a server can do, for three minutes, beside a client that sends little."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.faults.server_load import Replies, closed_loop, open_loop, resources, send
from tests.helpers.server_process import Server

pytestmark = pytest.mark.engine
logger = logging.getLogger(__name__)

SECONDS = 180
DEADLINE = 30
QUIET_SHARE = 0.05
"""Load of the quiet client, as a share of saturation."""
NO_LIMITS = httpx.Limits(max_connections=None)


async def test_overload_harms_neither_the_server_nor_the_other_client(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("loud\nquiet\n")
    flags = ["--api-key-file", str(keys), "--default-timeout", str(DEADLINE)]
    server = Server(None, tmp_path / "log", arguments=flags)
    try:
        async with client_of(server, "loud") as loud, client_of(server, "quiet") as quiet:
            await closed_loop(32, 10, requests(loud, Replies()))
            saturation = await closed_loop(64, 40, requests(loud, Replies()))
            alone, beside, flood = Replies(), Replies(), Replies()
            await open_loop(QUIET_SHARE * saturation, 120, requests(quiet, alone))
            before = resources(server)
            flooding = asyncio.create_task(open_loop(10 * saturation, SECONDS, requests(loud, flood)))
            await open_loop(QUIET_SHARE * saturation, SECONDS, requests(quiet, beside))
            during = resources(server)
            await flooding
        throughput = (len(flood.seconds) + len(beside.seconds)) / (SECONDS + DEADLINE / 2)
        logger.info("saturation %.2f images/s; under ten times that: %.2f images/s", saturation, throughput)
        logger.info("quiet alone: %s; beside the flood: %s; the flood: %s", alone, beside, flood)
        logger.info("memory %.0f -> %.0f MiB", before.memory / 2**20, during.memory / 2**20)
        assert flood.wrong == beside.wrong == []
        assert max(flood.percentile(0.99), beside.percentile(0.99)) <= DEADLINE
        assert during.memory < before.memory + 500 * 2**20
        assert throughput >= 0.9 * saturation
        assert beside.percentile(0.99) <= 2 * alone.percentile(0.99)
    finally:
        server.kill()


def client_of(server: Server, key: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=server.url, timeout=300, limits=NO_LIMITS, headers={"authorization": f"Bearer {key}"}
    )


def requests(client: httpx.AsyncClient, replies: Replies) -> Callable[[], Coroutine[Any, Any, None]]:
    seeds = itertools.count()
    return lambda: send(client, {"prompt": "a red circle", "seed": next(seeds)}, replies)
