"""The image routes in vLLM's own server. Their tests with a fake engine are in tests/llamagen_server/serving."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from tests.helpers.image_files import png, read_b64

from llamagen_server.pipeline.build import DEMO_MODEL

pytestmark = pytest.mark.engine

KEY = {"authorization": "Bearer secret"}
ROUNDING = 2
CIRCLE = {"prompt": "a large red circle on a white background", "seed": 7, "temperature": 1}
"""At the demo's own temperature other seeds often give the same image."""


class VLLMServer:
    """vLLM's own API server with the demo model on a Unix socket: what ``vllm serve`` runs after its flags are parsed.

    (The command itself does not start in vLLM's CPU build: it asks for the version of a distribution named vllm.)
    """

    def __init__(self, folder: Path) -> None:
        self.log, self.socket = folder / "log", folder / "socket"
        flags = ["--enforce-eager", "--dtype=float32", "--max-num-seqs=8", "--kv-cache-memory-bytes=50000000"]
        command = [sys.executable, "-m", "vllm.entrypoints.launchers.api_server.entry", f"--model={DEMO_MODEL}", *flags]
        command += ["--api-key=secret", "--served-model-name=demo", f"--uds={self.socket}"]
        with self.log.open("w") as output:
            environment = {**os.environ, "VLLM_PLUGINS": "llamagen"}
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        start = time.monotonic()
        while "Application startup complete" not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() - start < 600, self.log.read_text()
            time.sleep(0.2)
        transport = httpx.HTTPTransport(uds=str(self.socket))
        self.client = httpx.Client(transport=transport, base_url="http://vllm", timeout=300)

    def stop(self) -> None:
        self.client.close()
        self.process.terminate()
        try:
            self.process.wait(60)
        finally:
            self.process.kill()


@pytest.fixture(scope="module")
def vllm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLMServer]:
    server = VLLMServer(tmp_path_factory.mktemp("vllm"))
    yield server
    server.stop()


def pixels(reply: httpx.Response) -> np.ndarray:
    """[images, height, width, 3]; signed, so that differences can be taken."""
    assert reply.status_code == 200, reply.text
    body = reply.json()
    images = body.get("images") or body["data"]
    return np.stack([np.asarray(read_b64(image["b64_json"]), np.int16) for image in images])


def largest_difference(a: np.ndarray, b: np.ndarray) -> int:
    """Of two sets of images, in levels of 0 to 255. Codes that differ change a patch by more than rounding does."""
    assert a.shape == b.shape
    return int(np.abs(a - b).max())


def events(reply: httpx.Response) -> list[dict[str, Any]]:
    assert reply.status_code == 200, reply.text
    return [json.loads(line.removeprefix("data: ")) for line in reply.text.splitlines() if line.startswith("data: ")]


@pytest.mark.parametrize("body", [{**CIRCLE, "n": 4, "cfg_scale": 3.0}, {**CIRCLE, "temperature": 0}])
def test_codes_equal_those_of_llamagen_serve(vllm_server: VLLMServer, demo_url: str, body: dict[str, Any]) -> None:
    body = {**body, "response_format": "codes"}
    ours = httpx.post(f"{demo_url}/generate", json=body, timeout=300).json()["images"]
    assert len(ours) == body.get("n", 1)
    assert vllm_server.client.post("/generate", json=body, headers=KEY).json()["images"] == ours


def test_images_equal_those_of_llamagen_serve(vllm_server: VLLMServer, demo_url: str) -> None:
    """Up to rounding: on few cores `llamagen serve` decodes with one thread."""
    for path, body in (("/generate", CIRCLE), ("/v1/images/generations", {**CIRCLE, "n": 2})):
        ours = pixels(httpx.post(demo_url + path, json=body, timeout=300))
        assert largest_difference(pixels(vllm_server.client.post(path, json=body, headers=KEY)), ours) <= ROUNDING


def test_edits_equal_those_of_llamagen_serve(vllm_server: VLLMServer, demo_url: str) -> None:
    mask = Image.new("RGBA", (128, 128), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 64, 128, 128))
    files = {"image": png(Image.new("RGB", (128, 128), "white")), "mask": png(mask)}
    data = {"prompt": "a large red circle", "seed": "7", "temperature": "1"}
    ours = pixels(httpx.post(f"{demo_url}/v1/images/edits", data=data, files=files, timeout=300))
    theirs = pixels(vllm_server.client.post("/v1/images/edits", data=data, files=files, headers=KEY))
    assert largest_difference(theirs, ours) <= ROUNDING


def test_streams_grow_and_end_with_the_same_image(vllm_server: VLLMServer) -> None:
    body = {**CIRCLE, "stream": True, "partial_images": 2}
    whole = vllm_server.client.post("/v1/images/generations", json=CIRCLE, headers=KEY)
    for path, kinds in (
        ("/v1/images/generations", ["image_generation.partial_image"] * 2 + ["image_generation.completed"]),
        ("/generate", ["partial_image"] * 2 + ["completed", "done"]),
    ):
        stream = events(vllm_server.client.post(path, json=body, headers=KEY))
        assert [event["type"] for event in stream] == kinds
        assert np.array_equal(np.asarray(read_b64(stream[2]["b64_json"])), pixels(whole)[0])


def test_every_route_of_vllm_is_still_vllms(vllm_server: VLLMServer) -> None:
    """Replies of the image routes carry a request id, vLLM's do not without --enable-request-id-headers."""
    client = vllm_server.client
    operations = client.get("/openapi.json").json()["paths"]
    assert {"/health", "/load", "/version", "/ping", "/tokenize", "/v1/models", "/v1/completions"} <= operations.keys()
    assert not {"/generate", "/v1/images/generations"} & operations.keys()
    routes = [(method, path) for path, methods in operations.items() for method in methods]
    for method, path in [*routes, ("get", "/metrics"), ("get", "/docs"), ("post", "/v1/models"), ("get", "/nowhere")]:
        reply = client.request(method, path.replace("{response_id}", "x"), headers=KEY)
        assert "x-request-id" not in reply.headers, (method, path)
    assert client.get("/version").json() == {"version": "0.32.0"}
    [model] = client.get("/v1/models", headers=KEY).json()["data"]
    assert (model["id"], model["owned_by"]) == ("demo", "vllm")
    assert client.get("/v1/models/demo", headers=KEY).json()["owned_by"] == "llamagen-serve"  # vLLM has no such route
    metrics = client.get("/metrics").text
    assert "vllm:request_success_total" in metrics
    assert "llamagen_ready 1.0" in metrics


def test_wrong_input_and_missing_keys_get_one_line(vllm_server: VLLMServer) -> None:
    client = vllm_server.client
    reply = client.post("/v1/images/generations", json={**CIRCLE, "size": "3x3"}, headers=KEY)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "size")
    reply = client.post("/generate", json={"prompt": "circle " * 500}, headers=KEY)
    assert reply.status_code == 400
    assert "tokens, at most" in reply.json()["error"]["message"]
    for path in ("/generate", "/v1/images/generations", "/v1/completions"):
        assert client.post(path, json=CIRCLE).status_code == 401
    reply = client.post("/v1/images/generations", json={**CIRCLE, "response_format": "url"}, headers=KEY)
    url = reply.json()["data"][0]["url"]
    assert client.get(url).content.startswith(b"\x89PNG")  # an <img> sends no key
