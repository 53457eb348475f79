"""Ray Serve with the configurations in deploy/ray: a local cluster with two replicas of the demo model."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import kubernetes_validate
import psutil
import pytest
import yaml
from deploy.tests.load import Load
from deploy.tests.proxy import Proxy, free_ports
from pydantic import ValidationError
from starlette.responses import PlainTextResponse
from tests.helpers.waiting import until

logger = logging.getLogger(__name__)

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")]

CONFIG = Path(__file__).parents[1] / "ray"

SERVE_RUN = """
import ray, sys
from ray.serve.scripts import cli
if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100_000_000, namespace="serve")
    cli(["run", *sys.argv[1:]])
"""
"""``serve run`` with less than the whole machine."""


def serve_config(name: str) -> dict[str, Any]:
    """Returns a Serve configuration, by itself or inside the manifest for KubeRay."""
    content = yaml.safe_load((CONFIG / name).read_text())
    return yaml.safe_load(content["spec"]["serveConfigV2"]) if "spec" in content else content


class Cluster:
    """``serve run`` with a configuration. Its log has the lines of the replicas, with their process ids."""

    def __init__(self, config: dict[str, Any], folder: Path) -> None:
        [port] = free_ports(1)
        config["http_options"]["port"] = port
        self.address = f"127.0.0.1:{port}"
        file, self._log = folder / "serve.yaml", folder / "log"
        file.write_text(yaml.safe_dump(config))
        # The names of Ray's sockets are long, and bounded.
        self._temporary = tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True)
        settings = {
            "RAY_TMPDIR": self._temporary.name,
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_DEDUP_LOGS": "0",
        }
        with self._log.open("w") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-c", SERVE_RUN, str(file)],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | settings,
                start_new_session=True,
            )

    async def has_replicas(self, count: int) -> bool:
        """Whether ``count`` replicas are alive and ready."""
        assert self._process.poll() is None, self._log.read_text()
        return len(self.replicas()) == count

    def replicas(self) -> list[int]:
        """Returns the process ids of the replicas that are alive and ready."""
        return [pid for pid in self._lines("is ready") if is_alive(pid)]

    def replies(self) -> Counter[int]:
        """Returns the number of finished requests of each replica, by process id."""
        return self._lines("POST /generate 200")

    def _lines(self, text: str) -> Counter[int]:
        pattern = rf"ServeReplica:llamagen:ImageServer pid=(\d+)\).*{text}"
        return Counter(int(pid) for pid in re.findall(pattern, self._log.read_text()))

    def stop(self) -> list[psutil.Process]:
        """Stops it as Ctrl-C does. Returns the processes that are left, after it ended them."""
        processes = psutil.Process(self._process.pid).children(recursive=True)
        self._process.send_signal(signal.SIGINT)
        self._process.wait(180)
        _, alive = psutil.wait_procs(processes, 60)
        alive = [process for process in alive if is_alive(process.pid)]
        for process in alive:
            process.kill()
        self._temporary.cleanup()
        return alive


def is_alive(pid: int) -> bool:
    """A process that was killed stays a zombie until its parent notices."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(serve_config("demo.yaml"), tmp_path)
    yield cluster
    assert cluster.stop() == []


@pytest.mark.parametrize("name", ["demo.yaml", "cuda.yaml", "rayservice.yaml"])
def test_configurations_are_valid(name: str) -> None:
    from ray.serve.schema import ServeDeploySchema

    from llamagen_server.serving import ray_serve

    [app] = ServeDeploySchema.model_validate(serve_config(name)).applications
    ray_serve.Arguments.model_validate(app.args)
    assert app.import_path == f"{ray_serve.__name__}:build_app"
    assert [deployment.name for deployment in app.deployments] == ["ImageServer"]


def test_the_pods_of_the_manifest_are_valid() -> None:
    cluster = yaml.safe_load((CONFIG / "rayservice.yaml").read_text())["spec"]["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ray"}, **group["template"]}
        kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)


def test_a_wrong_argument_is_named() -> None:
    from llamagen_server.serving.ray_serve import Arguments

    with pytest.raises(ValidationError, match="max_in_fligth"):
        Arguments.model_validate({"max_in_fligth": 3})


def test_a_wrong_limit_is_refused_before_a_replica_starts() -> None:
    from llamagen_server.serving.ray_serve import Arguments, build_app

    with pytest.raises(ValueError, match="--default-timeout is 600, must be more than 0 and at most 60 seconds"):
        build_app(Arguments(max_timeout=60))


def test_ray_lets_through_what_the_app_refuses() -> None:
    """Ray queues requests above its own limit without a bound; the app answers them with 429."""
    from llamagen_server.serving.ray_serve import Arguments, build_app

    app = build_app(Arguments(max_in_flight=3))
    assert app._bound_deployment.max_ongoing_requests >= 1000


@pytest.mark.parametrize(("alive", "ends"), [(True, []), (False, [1])])
async def test_a_replica_ends_when_its_engine_has_ended_for_good(
    alive: bool, ends: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from llamagen_server.core.errors import EngineStoppedError
    from llamagen_server.serving.ray_serve import EndWithEngine

    class Engine:
        async def check_health(self) -> None:
            if not alive:
                raise EngineStoppedError("the engine stopped")

    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    app = EndWithEngine(PlainTextResponse("unavailable", 503), Engine())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://replica") as client:
        await client.get("/")
    assert codes == ends


async def test_a_replica_that_dies_fails_no_request(cluster: Cluster, tmp_path: Path) -> None:
    await until(lambda: cluster.has_replicas(2), 600)
    proxy = Proxy("replicas-ray.cfg", tmp_path / "proxy.log", RAY_PROXY=cluster.address)
    await until(proxy.is_ready)
    try:
        await spread(cluster, proxy)
        await kill_under_load(cluster, proxy)
    finally:
        proxy.stop()


async def spread(cluster: Cluster, proxy: Proxy) -> None:
    """Requests and streams reach both replicas, and a client that disconnects stops its images."""
    load = Load(proxy.url, streams=True)
    await load.learn()
    async with load.running(clients=4):
        await more(load, 16)
    await load.close()
    load.outcome.check(at_least=16)
    replies = cluster.replies()
    logger.info("%s, replies: %s", load.outcome, replies)
    assert len(replies) == 2
    assert min(replies.values()) >= 0.25 * replies.total()


async def kill_under_load(cluster: Cluster, proxy: Proxy) -> None:
    """A replica is killed; when another one is ready, the engine of one is killed, and the replica starts a new one."""
    load = Load(proxy.url, streams=False)
    await load.learn()
    async with load.running(clients=6):
        await more(load, 6)
        killed = psutil.Process(cluster.replicas()[0])
        children = killed.children(recursive=True)
        assert children
        killed.send_signal(signal.SIGKILL)
        assert psutil.wait_procs(children, 20)[1] == []
        load.pause = 3  # leaves the cores to loading
        await until(lambda: cluster.has_replicas(2), 600)
        sent_again, load.pause = proxy.retries(), 0
        assert sent_again > 0
        await more(load, 12)
        replicas = set(cluster.replicas())
        for process in psutil.Process(min(replicas)).children(recursive=True):
            process.kill()
        await more(load, 12)
    await load.close()
    logger.info("%s, sent again: %d", load.outcome, sent_again)
    load.outcome.check(at_least=30)
    assert set(cluster.replicas()) == replicas


async def more(load: Load, count: int) -> None:
    """Waits until ``count`` more requests are over."""
    end = load.outcome.requests + count

    async def is_over() -> bool:
        return load.outcome.requests >= end

    await until(is_over, 300)
