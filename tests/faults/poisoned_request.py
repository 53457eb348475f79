"""A request that kills the engine whenever it runs ends alone, with 500; its neighbours get their images."""

from __future__ import annotations

import asyncio
import logging
import math
from pathlib import Path

import httpx
import numpy as np
import pytest
from tests.faults.poison import POISON_SEED
from tests.faults.requests import FaultRequest, send_all
from tests.faults.server_load import metric
from tests.helpers.server_process import Server

pytestmark = pytest.mark.engine
logger = logging.getLogger(__name__)

NEIGHBOURS = 15


async def test_a_poisoned_request_fails_alone(
    text_model_dir: Path, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(root))  # for the engine, which imports the hook
    server = Server(text_model_dir, tmp_path / "log", arguments=["--logits-processors", "tests.faults.poison:Poison"])
    bodies = [{"prompt": "a red circle", "seed": seed, "temperature": 0} for seed in range(NEIGHBOURS)]
    try:
        async with httpx.AsyncClient(base_url=server.url, timeout=900) as client:
            neighbours = [FaultRequest("reply", body) for body in bodies]
            expected = await send_all(client, neighbours[:3], 1)
            poisoned = asyncio.create_task(client.post("/generate", json=bodies[0] | {"seed": POISON_SEED}))
            images = await send_all(client, neighbours, NEIGHBOURS)
            reply = await poisoned
            assert reply.status_code == 500
            assert "ended whenever this request was running" in reply.json()["error"]["message"]
            for got, right in zip(images, expected, strict=False):
                np.testing.assert_array_equal(got, right)
            restarts = await metric(client, "llamagen_engine_restarts_total")
            logger.info("%g restarts", restarts)
            assert restarts <= 3 + math.ceil(math.log2(NEIGHBOURS + 1))
            assert (await client.get("/ready")).status_code == 200
    finally:
        server.kill()
