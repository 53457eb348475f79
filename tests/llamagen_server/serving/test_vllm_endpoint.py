"""The endpoint plugin of ``vllm serve``, with a fake engine behind routes of a host."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from tests.helpers.app import client_of, make_app
from transformers import PreTrainedConfig

from llamagen_server.core.options import Limits
from llamagen_server.serving.vllm_endpoint import ImageEndpoints
from vllm_llamagen.config import LlamaGenConfig


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
        pipeline.admission.limits = Limits(max_in_flight=4)
        with pipeline.admission.hold(4):
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
            assert (await client.get("/images/some.png")).status_code == 404  # nobody can guess a name
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
    args = argparse.Namespace(model="no/such/directory", otlp_traces_endpoint=None)
    with pytest.raises(SystemExit, match=line) as ended:
        await plugin.init_state(engine, SimpleNamespace(), args)  # type: ignore[arg-type]
    assert str(ended.value).startswith("llamagen: no/such/directory")
    assert "\n" not in str(ended.value)
