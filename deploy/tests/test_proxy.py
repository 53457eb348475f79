"""Independent replicas behind HAProxy, in the configuration that deploy/proxy ships."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from deploy.tests.load import Load
from deploy.tests.proxy import Proxy, free_ports
from tests.helpers.server_process import Server
from tests.helpers.waiting import until

logger = logging.getLogger(__name__)

pytestmark = [pytest.mark.engine, pytest.mark.slow]


class Replica:
    """A server on a fixed port, which can be stopped and started again."""

    def __init__(self, model_dir: Path, port: int, folder: Path) -> None:
        self.address, self.url = f"127.0.0.1:{port}", f"http://127.0.0.1:{port}"
        self._model_dir, self._port, self._folder, self._starts = model_dir, port, folder, 0
        self.start()

    def start(self) -> None:
        self._starts += 1
        log = self._folder / f"{self._port}-{self._starts}.log"
        arguments = ["--port", str(self._port), "--max-in-flight", "10"]
        self.server = Server(self._model_dir, log, wait=False, arguments=arguments)

    async def is_ready(self) -> bool:
        assert self.server.process.poll() is None, self.server.log.read_text()
        async with httpx.AsyncClient(timeout=30) as client:
            try:
                return (await client.get(f"{self.url}/ready")).status_code == 200
            except httpx.TransportError:
                return False

    async def restart(self) -> None:
        """As a supervisor does it: SIGTERM, the end, the start, readiness."""
        self.server.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(self.server.process.wait, 90) == 0
        self.start()
        await until(self.is_ready, 300)

    async def is_busy(self) -> bool:
        return await self.in_flight() > 0

    async def in_flight(self) -> int:
        """Images that are accepted and not finished."""
        async with httpx.AsyncClient(timeout=30) as client:
            return (await client.get(f"{self.url}/load")).json()["server_load"]


@pytest.fixture(scope="module")
def replicas(text_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Replica]]:
    folder = tmp_path_factory.mktemp("replicas")
    replicas = [Replica(text_model_dir, port, folder) for port in free_ports(2)]
    yield replicas
    for replica in replicas:
        replica.server.kill()


@pytest.fixture
async def proxy(tmp_path: Path, replicas: list[Replica]) -> AsyncIterator[Proxy]:
    for replica in replicas:
        await until(replica.is_ready, 600)
    one, two = replicas
    proxy = Proxy("replicas.cfg", tmp_path / "log", REPLICA_ONE=one.address, REPLICA_TWO=two.address)
    await until(proxy.is_ready)
    await until(proxy.sees_all)
    yield proxy
    proxy.stop()


async def test_a_rolling_restart_fails_no_request(proxy: Proxy, replicas: list[Replica]) -> None:
    load = Load(proxy.url, streams=True, pause=0.2)
    await load.learn()
    async with load.running(clients=4):
        for replica in replicas:
            await replica.restart()
            await until(proxy.sees_all)
    await load.close()
    logger.info("%s, %d sent again, replies: %s", load.outcome, proxy.retries(), proxy.replies())
    load.outcome.check(at_least=20)
    assert load.outcome.streams >= 10
    assert all(proxy.replies().values())


async def test_a_client_that_disconnects_stops_the_work(proxy: Proxy, replicas: list[Replica]) -> None:
    async def in_flight() -> int:
        return sum([await replica.in_flight() for replica in replicas])

    async def is_busy() -> bool:
        return await in_flight() > 0

    async def is_idle() -> bool:
        return await in_flight() == 0

    async with httpx.AsyncClient(base_url=proxy.url, timeout=300) as client:
        request = asyncio.create_task(client.post("/generate", json={"prompt": "a red circle", "n": 10}))
        await until(is_busy)
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
    await until(is_idle)
    assert any("POST /generate 499" in replica.server.log.read_text() for replica in replicas)


async def test_a_refusal_is_a_reply(proxy: Proxy) -> None:
    """A request with status 429 is not sent to the other replica."""
    async with httpx.AsyncClient(base_url=proxy.url, timeout=300) as client:
        body = {"prompt": "a red circle", "n": 10}
        replies = await asyncio.gather(*(client.post("/generate", json=body) for _ in range(4)))
    assert sorted(reply.status_code for reply in replies) == [200, 200, 429, 429]
    assert proxy.retries() == 0


async def test_what_a_killed_replica_did_not_finish_is_sent_again(proxy: Proxy, replicas: list[Replica]) -> None:
    """Runs last: one replica stays dead."""
    load = Load(proxy.url, streams=False)
    await load.learn()
    async with load.running(clients=6):
        await until(replicas[0].is_busy)
        await asyncio.to_thread(replicas[0].server.kill)
        await asyncio.sleep(3)
    await load.close()
    logger.info("%s, %d sent again, replies: %s", load.outcome, proxy.retries(), proxy.replies())
    load.outcome.check(at_least=10)
    assert proxy.retries() > 0
