"""The image routes inside ``vllm serve``: with a fake engine behind routes of a host, and in vLLM's own server."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image
from tests.helpers.app import client_of, make_app
from tests.helpers.image_files import png, read_b64
from transformers import PreTrainedConfig

from llamagen_server.pipeline.build import DEMO_MODEL
from llamagen_server.serving.vllm_endpoint import ImageEndpoints
from vllm_llamagen.config import LlamaGenConfig

KEY = {"authorization": "Bearer secret"}
ROUNDING = 2
CIRCLE = {"prompt": "a large red circle on a white background", "seed": 7}


def host_with_plugin(model: str = "tiny", **args: Any) -> tuple[FastAPI, ImageEndpoints]:
    """A server with three routes of its own, two of them at paths of ours, and the plugin."""
    host, plugin = FastAPI(), ImageEndpoints()
    host.state.args = argparse.Namespace(**{"api_key": None, "served_model_name": None, "model": model, **args})

    @host.get("/v1/models")
    @host.post("/generate")
    @host.get("/health")
    def own() -> str:
        return "the host's"

    host.router.routes[:] = [route for route in host.routes if getattr(route, "path", "") != args.get("without")]
    plugin.attach_router(host)
    return host, plugin


async def test_routes_of_the_host_stay_the_hosts() -> None:
    host, _ = host_with_plugin()
    async with client_of(host) as client:
        for method, path in (("GET", "/v1/models"), ("POST", "/generate"), ("GET", "/health")):
            assert (await client.request(method, path)).json() == "the host's"
        for method, path in (("GET", "/nowhere"), ("DELETE", "/v1/models"), ("GET", "/generate"), ("GET", "/ready")):
            reply = await client.request(method, path)
            assert reply.status_code in (404, 405)
            assert reply.json() in ({"detail": "Not Found"}, {"detail": "Method Not Allowed"})
        assert "FastAPI - Swagger UI" in (await client.get("/docs")).text
        assert "llamagen" not in (await client.get("/openapi.json")).text


async def test_image_routes_keep_their_error_format(class_model_dir: Path) -> None:
    host, plugin = host_with_plugin(without="/generate")
    async with client_of(host) as client:
        reply = await client.post("/generate", json={"class_id": 1})
        assert (reply.status_code, reply.json()["error"]["message"]) == (503, "the model is still loading")
        pipeline = plugin.images.state.pipeline = make_app(class_model_dir).state.pipeline
        expected = [
            ({"json": {"class_id": 99}}, 400, "class_id is 99"),
            ({"json": {"class_id": 1, "cfg_scale": -3}}, 400, "cfg_scale is -3"),
            ({"content": b"x" * 2**21}, 413, "the body has more than 1048576 bytes"),
        ]
        for content, status, message in expected:
            reply = await client.post("/generate", **content, headers={"x-request-id": "mine"})
            assert reply.status_code == status
            assert message in reply.json()["error"]["message"]
            assert reply.headers["x-request-id"] == "mine"
        pipeline.admission.max_in_flight, pipeline.admission.in_flight = 4, 4
        reply = await client.post("/generate", json={"class_id": 1})
        assert (reply.status_code, reply.json()["error"]["code"]) == (429, "overloaded")
        assert (await client.get("/generate")).status_code == 405
        assert (await client.get("/")).headers["content-type"].startswith("text/html")


async def test_the_hosts_keys_protect_every_image_route(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "of the environment")
    paths = ("/generate", "/v1/images/generations", "/v1/images/edits", "/v1/images/encode", "/v1/images/decode")
    for given, key in ((["secret", "other"], "other"), (None, "of the environment")):
        host, _ = host_with_plugin(without="/generate", api_key=given)
        async with client_of(host) as client:
            for path in paths:
                assert (await client.post(path)).status_code == 401
                assert (await client.post(path, headers={"authorization": f"Bearer {key}"})).status_code == 503
            assert (await client.get("/images/some.png")).status_code == 401
            assert (await client.get("/")).status_code == 200


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (PreTrainedConfig(), "is a  model: leave llamagen out of VLLM_PLUGINS"),
        (LlamaGenConfig(), "does not exist"),
    ],
)
async def test_a_model_that_cannot_be_served_ends_the_server_with_one_line(config: Any, line: str) -> None:
    _, plugin = host_with_plugin("no/such/directory")
    engine = SimpleNamespace(model_config=SimpleNamespace(hf_config=config))
    args = argparse.Namespace(model="no/such/directory")
    with pytest.raises(SystemExit, match=line) as ended:
        await plugin.init_state(engine, SimpleNamespace(), args)  # type: ignore[arg-type]
    assert str(ended.value).startswith("llamagen: no/such/directory")
    assert "\n" not in str(ended.value)


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


@pytest.mark.engine
@pytest.mark.parametrize("body", [{**CIRCLE, "n": 4, "cfg_scale": 3.0}, {**CIRCLE, "temperature": 0}])
def test_codes_equal_those_of_llamagen_serve(vllm_server: VLLMServer, demo_url: str, body: dict[str, Any]) -> None:
    body = {**body, "response_format": "codes"}
    ours = httpx.post(f"{demo_url}/generate", json=body, timeout=300).json()["images"]
    assert len(ours) == body.get("n", 1)
    assert vllm_server.client.post("/generate", json=body, headers=KEY).json()["images"] == ours


@pytest.mark.engine
def test_images_equal_those_of_llamagen_serve(vllm_server: VLLMServer, demo_url: str) -> None:
    """Up to rounding: on few cores `llamagen serve` decodes with one thread."""
    for path, body in (("/generate", CIRCLE), ("/v1/images/generations", {**CIRCLE, "n": 2})):
        ours = pixels(httpx.post(demo_url + path, json=body, timeout=300))
        assert largest_difference(pixels(vllm_server.client.post(path, json=body, headers=KEY)), ours) <= ROUNDING


@pytest.mark.engine
def test_edits_equal_those_of_llamagen_serve(vllm_server: VLLMServer, demo_url: str) -> None:
    mask = Image.new("RGBA", (128, 128), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 64, 128, 128))
    files = {"image": png(Image.new("RGB", (128, 128), "white")), "mask": png(mask)}
    data = {"prompt": "a large red circle", "seed": "7"}
    ours = pixels(httpx.post(f"{demo_url}/v1/images/edits", data=data, files=files, timeout=300))
    theirs = pixels(vllm_server.client.post("/v1/images/edits", data=data, files=files, headers=KEY))
    assert largest_difference(theirs, ours) <= ROUNDING


@pytest.mark.engine
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


@pytest.mark.engine
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


@pytest.mark.engine
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
    assert client.get(url).status_code == 401
    assert client.get(url, headers=KEY).content.startswith(b"\x89PNG")
