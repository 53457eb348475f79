"""The proxy's configuration and manifest, with replicas that only look like one."""

from __future__ import annotations

import asyncio
import http.client
import re
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import kubernetes_validate
import pytest
import yaml
from deploy.tests.chart import Object, matches, render
from deploy.tests.proxy import CONFIG, Proxy
from fastapi import FastAPI, Response
from tests.helpers.app_on_a_port import serve
from tests.helpers.waiting import until

POLICY = (CONFIG / "haproxy.cfg").read_text()
MANIFEST: list[Object] = list(yaml.safe_load_all((CONFIG / "kubernetes.yaml").read_text()))


def manifest(kind: str, name: str = "llamagen-proxy") -> Object:
    (item,) = [item for item in MANIFEST if (item["kind"], item["metadata"]["name"]) == (kind, name)]
    return item


class Replica:
    """Replies 200 to every path; ``refusals`` is how many more checks it refuses, ``is_draining`` refuses requests."""

    def __init__(self, stack: ExitStack) -> None:
        self.refusals = 0
        self.is_draining = False
        self.requests: Counter[int] = Counter()
        app = FastAPI(openapi_url=None)
        app.get("/ready")(self.ready)
        app.get("/{path:path}")(self.reply)
        self.address = stack.enter_context(serve(app)).removeprefix("http://")

    async def ready(self) -> Response:
        self.refusals -= self.refusals > 0
        return Response(status_code=503 if self.refusals or self.is_draining else 200)

    async def reply(self, path: str) -> Response:
        status = 503 if self.is_draining else 200
        self.requests[status] += 1
        return Response(path, status)


@pytest.fixture
def replicas() -> Iterator[list[Replica]]:
    with ExitStack() as stack:
        yield [Replica(stack), Replica(stack)]


@pytest.fixture
async def proxy(tmp_path: Path, replicas: list[Replica]) -> AsyncIterator[Proxy]:
    one, two = (replica.address for replica in replicas)
    proxy = Proxy("replicas.cfg", tmp_path / "log", REPLICA_ONE=one, REPLICA_TWO=two)
    try:
        await until(proxy.is_ready)
        await until(proxy.sees_all)
        yield proxy
    finally:
        proxy.stop()


# HAProxy


@pytest.mark.parametrize("replicas_file", sorted(path.name for path in CONFIG.glob("replicas*.cfg")))
def test_the_configuration_is_valid_without_warnings(replicas_file: str) -> None:
    command = ["haproxy", "-c", "-f", CONFIG / "haproxy.cfg", "-f", CONFIG / replicas_file]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


async def test_metrics_do_not_pass_in_any_spelling(proxy: Proxy, replicas: list[Replica]) -> None:
    def status(path: str) -> int:
        """http.client sends the path as it is."""
        connection = http.client.HTTPConnection(proxy.url.removeprefix("http://"), timeout=60)
        connection.request("GET", path)
        code = connection.getresponse().status
        connection.close()
        return code

    for path in ("/metrics", "/metrics?a=b", "/metrics/", "/%6detrics", "/%6D%65%74%72%69%63%73", "/metrics%0a"):
        assert await asyncio.to_thread(status, path) == 404, path
    assert not any(replica.requests for replica in replicas)
    assert await asyncio.to_thread(status, "/generate") == 200


async def test_two_failed_checks_of_a_busy_replica_leave_it_in(proxy: Proxy, replicas: list[Replica]) -> None:
    async def has_failed_twice() -> bool:
        assert await proxy.sees_all()
        return proxy.failed_checks()["one"] == 2

    replicas[0].refusals = 3  # the third one is a success again
    await until(has_failed_twice)
    await asyncio.sleep(2)
    assert await proxy.sees_all()
    assert proxy.failed_checks() == {"one": 2, "two": 0}


async def test_a_draining_replica_is_out_after_three_checks_and_no_request_fails(
    proxy: Proxy, replicas: list[Replica]
) -> None:
    replicas[0].is_draining = True
    async with httpx.AsyncClient(base_url=proxy.url, timeout=60) as client:
        while await proxy.sees_all():
            assert (await client.get("/generate")).status_code == 200
        refused = replicas[0].requests[503]
        assert refused > 0
        assert (await client.get("/generate")).status_code == 200
    assert replicas[0].requests[503] == refused
    assert proxy.failed_checks()["one"] == 3

    async def all_are_logged() -> bool:
        return proxy.retries() == refused

    await until(all_are_logged, 10)


# The manifest


@pytest.mark.parametrize("version", ["1.30", kubernetes_validate.latest_version()])
def test_the_manifest_is_valid(version: str) -> None:
    for item in MANIFEST:
        kubernetes_validate.validate(item, version, strict=True)


def test_the_replicas_are_one_release_of_the_chart_by_a_fully_qualified_name() -> None:
    """HAProxy's resolver does not try the search domains of the pod."""
    service = manifest("Service", "llamagen-replicas")
    (container,) = manifest("Deployment")["spec"]["template"]["spec"]["containers"]
    namespace, name = container["env"][:2]  # a variable refers to those before it
    assert namespace == {"name": "NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}}
    (port,) = service["spec"]["ports"]
    assert name["name"] == "REPLICAS_NAME"
    assert name["value"] == f"{service['metadata']['name']}.$(NAMESPACE).svc.cluster.local:{port['port']}"
    pods = render({})["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert matches(service["spec"]["selector"], pods)
    assert not matches(service["spec"]["selector"], pods | {"app.kubernetes.io/instance": "other"})


def test_the_two_proxies_do_not_leave_at_once() -> None:
    deployment = manifest("Deployment")["spec"]
    labels, pod = deployment["template"]["metadata"]["labels"], deployment["template"]["spec"]
    (spread,) = pod["topologySpreadConstraints"]
    budget = manifest("PodDisruptionBudget")["spec"]
    assert deployment["replicas"] == 2
    assert budget["maxUnavailable"] == 1
    for selector in (budget["selector"], spread["labelSelector"], deployment["selector"]):
        assert matches(selector["matchLabels"], labels)
    assert matches(manifest("Service")["spec"]["selector"], labels)
    (container,) = pod["containers"]
    assert pod["terminationGracePeriodSeconds"] - container["lifecycle"]["preStop"]["sleep"]["seconds"] == 600


def test_the_memory_limit_is_above_what_all_buffers_take() -> None:
    (connections,) = re.findall(r"^    maxconn (\d+)$", POLICY, flags=re.MULTILINE)
    (buffer,) = re.findall(r"tune.bufsize \"\$\{PROXY_REPEAT_BYTES-(\d+)\}\"", POLICY)
    (container,) = manifest("Deployment")["spec"]["template"]["spec"]["containers"]
    (gib,) = re.fullmatch(r"(\d+)Gi", container["resources"]["limits"]["memory"]).groups()  # type: ignore[union-attr]
    assert int(connections) * 2 * int(buffer) + 2**29 <= int(gib) * 2**30
