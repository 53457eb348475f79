"""A server process without vLLM's engine, whose images are never finished: signals, keys, TLS."""

from __future__ import annotations

import json
import re
import signal
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
from tests.helpers.certificate import make_certificate
from tests.helpers.network import has_ipv6
from tests.helpers.server_process import Server

SECONDS = 60
"""Longest wait for anything that the server does at once."""


@contextmanager
def running(model: Path, log: Path, *flags: object) -> Iterator[Server]:
    server = Server(model, log, arguments=[str(flag) for flag in flags], stuck=True)
    try:
        yield server
    finally:
        server.kill()


def log_has(server: Server, text: str) -> bool:
    """Waits until the log has a text."""
    end = time.monotonic() + SECONDS
    while text not in server.log.read_text():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


class Client(threading.Thread):
    """Requests one image, in a thread."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self.reply: httpx.Response | None = None
        self.start()

    def run(self) -> None:
        self.reply = httpx.post(f"{self.url}/generate", json={"class_id": 1}, timeout=SECONDS)


def wait_for_images(url: str, count: int) -> None:
    end = time.monotonic() + SECONDS
    while httpx.get(f"{url}/load").json()["server_load"] < count:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_second_signal_cuts_off_what_is_in_flight(class_model_dir: Path, tmp_path: Path) -> None:
    with running(class_model_dir, tmp_path / "log", "--shutdown-timeout", 600) as server:
        clients = [Client(server.url) for _ in range(3)]
        wait_for_images(server.url, 3)
        children = psutil.Process(server.process.pid).children(recursive=True)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(1)
        assert server.process.poll() is None
        assert all(client.is_alive() for client in clients)
        start = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(SECONDS) == 0
        assert time.monotonic() - start < 10
    for client in clients:
        client.join(SECONDS)
        assert client.reply is not None
        assert client.reply.status_code == 503
        assert client.reply.json()["error"]["message"] == "the server is stopping"
    _, alive = psutil.wait_procs(children, 10)
    assert not alive
    log = server.log.read_text()
    assert log.count("stopping at once: 3 requests in flight are cut off") == 1
    assert log.count("POST /generate 503") == 3
    assert log.rstrip().endswith("stopped")
    assert "Traceback" not in log


def test_what_outlasts_the_shutdown_timeout_is_cut_off(class_model_dir: Path, tmp_path: Path) -> None:
    with running(class_model_dir, tmp_path / "log", "--shutdown-timeout", 1) as server:
        client = Client(server.url)
        wait_for_images(server.url, 1)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(SECONDS) == 0
        client.join(SECONDS)
        assert client.reply is not None
        assert client.reply.status_code == 503
        assert "Traceback" not in server.log.read_text()


def test_a_log_in_json_has_the_request_of_each_line(class_model_dir: Path, tmp_path: Path) -> None:
    with running(class_model_dir, tmp_path / "log", "--log-format", "json") as server:
        httpx.get(f"{server.url}/nothing", headers={"x-request-id": "my-id"})
        assert log_has(server, "my-id")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(SECONDS) == 0
    lines = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
    assert all({"time", "level", "logger", "message", "request_id"} <= line.keys() for line in lines)
    [line] = [line for line in lines if line["request_id"]]
    assert re.fullmatch(r"GET /nothing 404 \d+ ms", line["message"])
    assert (line["level"], line["request_id"]) == ("INFO", "my-id")
    assert lines[-1]["message"] == "stopped"


def test_every_address_of_both_families(class_model_dir: Path, tmp_path: Path) -> None:
    with running(class_model_dir, tmp_path / "log", "--host", "::") as server:
        assert re.fullmatch(r"http://localhost:\d+", server.url)
        for host in ("localhost", "127.0.0.1", *(["[::1]"] if has_ipv6() else [])):
            assert httpx.get(server.url.replace("localhost", host) + "/health").status_code == 200
        assert server.log.read_text().count("no key is configured") == 1


def test_sighup_reads_the_keys_again(class_model_dir: Path, tmp_path: Path) -> None:
    (keys := tmp_path / "keys").write_text("0ld")
    with running(class_model_dir, tmp_path / "log", "--api-key-file", keys, "--host", "0.0.0.0") as server:
        url = server.url.replace("localhost", "127.0.0.1")

        def accepted() -> list[str]:
            return [k for k in ("0ld", "n3w") if httpx.get(f"{url}/load", headers={"x-api-key": k}).is_success]

        assert accepted() == ["0ld"]
        keys.write_text("n3w")
        server.process.send_signal(signal.SIGHUP)
        assert log_has(server, "the key files were read again: 1 keys")
        assert accepted() == ["n3w"]
        keys.write_text("")
        server.process.send_signal(signal.SIGHUP)
        assert log_has(server, f"the keys stay as they are: the key file {keys} contains no key")
        assert accepted() == ["n3w"]
        assert "no key is configured" not in server.log.read_text()
        assert "n3w" not in server.log.read_text()


def test_tls_with_client_certificates(class_model_dir: Path, tmp_path: Path) -> None:
    certfile, keyfile = make_certificate(tmp_path, password="pass")
    flags = ("--ssl-certfile", certfile, "--ssl-keyfile", keyfile, "--ssl-keyfile-password", "pass")
    clients = ("--ssl-ca-certs", certfile, "--ssl-cert-reqs", 2, "--host", "0.0.0.0")
    with running(class_model_dir, tmp_path / "log", *flags, *clients) as server:
        assert server.url.startswith("https://")
        url = server.url.replace("localhost", "127.0.0.1")
        context = ssl.create_default_context(cafile=certfile)
        with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError, httpx.ConnectError)):
            httpx.get(f"{url}/health", verify=context)
        context.load_cert_chain(certfile, keyfile, "pass")
        assert httpx.get(f"{url}/health", verify=context).status_code == 200
        with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
            httpx.get(url.replace("https", "http") + "/health")
        assert server.log.read_text().count("no key is configured") == 1
