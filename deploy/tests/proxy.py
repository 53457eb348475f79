"""HAProxy with the configuration in deploy/proxy, as a process."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

CONFIG = Path(__file__).parents[1] / "proxy"


def free_ports(count: int) -> list[int]:
    """Returns ports that are free now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


class Proxy:
    """Serves at ``url``. Its output goes to the file ``log``."""

    def __init__(self, replicas: str, log: Path, **environment: str) -> None:
        """``replicas`` is the name of the file with the replicas, which reads the ``environment``."""
        port, operators_port = free_ports(2)
        self.url, self.operators_url = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{operators_port}"
        self.log = log
        binds = {"PROXY_BIND": f"127.0.0.1:{port}", "PROXY_STATS_BIND": f"127.0.0.1:{operators_port}"}
        with log.open("w") as output:
            self._process = subprocess.Popen(
                ["haproxy", "-f", CONFIG / "haproxy.cfg", "-f", CONFIG / replicas],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | binds | environment,
            )

    async def is_ready(self) -> bool:
        """Whether it has a replica to send to."""
        assert self._process.poll() is None, self.log.read_text()
        async with httpx.AsyncClient() as client:
            try:
                return (await client.get(f"{self.operators_url}/health")).status_code == 200
            except httpx.TransportError:
                return False

    async def sees_all(self) -> bool:
        """Whether its checks have found every replica ready."""
        states = self._samples("haproxy_server_status")
        return all(sample.value == 1 for sample in states if sample.labels["state"] == "UP")

    def replies(self) -> dict[str, int]:
        """Returns the number of replies with status 2xx by replica."""
        return {
            sample.labels["server"]: int(sample.value)
            for sample in self._samples("haproxy_server_http_responses_total")
            if sample.labels["code"] == "2xx"
        }

    def retries(self) -> int:
        """Returns how often requests were repeated, by the log: the metrics count some repetitions twice."""
        return sum(map(int, re.findall(r" after \+?(\d+) retries ", self.log.read_text())))

    def failed_checks(self) -> dict[str, int]:
        """Returns the number of failed health checks by replica, of those while it was not out."""
        samples = self._samples("haproxy_server_check_failures_total")
        return {sample.labels["server"]: int(sample.value) for sample in samples}

    def _samples(self, name: str) -> Iterator[Sample]:
        for family in text_string_to_metric_families(httpx.get(f"{self.operators_url}/metrics").text):
            for sample in family.samples:
                if sample.name == name and sample.labels["proxy"] == "replicas":
                    yield sample

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
