"""API keys, body limits, health, metrics, models."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import openai
import pytest
from fastapi import FastAPI
from openai import AsyncOpenAI
from prometheus_client.parser import text_string_to_metric_families
from tests.helpers.app import client_of

from llamagen_server.api.app import create_app
from llamagen_server.api.middleware.api_key import OPEN_PATHS
from llamagen_server.api.middleware.body_limit import MAX_BODY, MAX_IMAGE_BODY
from llamagen_server.core.errors import EngineError


@pytest.fixture
def locked_app(class_app: FastAPI) -> FastAPI:
    return create_app("tiny", class_app.state.pipeline, api_keys=["s3cret", "other"])


async def test_every_route_but_the_open_ones_requires_a_key(locked_app: FastAPI) -> None:
    paths = {route.path for route in locked_app.routes}  # type: ignore[attr-defined]
    assert len(paths) > 15
    async with client_of(locked_app) as client:
        for path in paths:
            is_open = path in OPEN_PATHS or path.startswith("/playground")
            for method in ("GET", "POST"):
                reply = await client.request(method, path)
                assert (reply.status_code == 401) != is_open, path
                if not is_open:
                    assert reply.json()["error"]["type"] == "authentication_error"
                    assert reply.headers["www-authenticate"] == "Bearer"
                    assert "x-request-id" in reply.headers
        for header, status in (("Bearer other", 200), ("bearer s3cret", 200), ("s3cret", 401), ("Bearer s3cre", 401)):
            reply = await client.get("/v1/models", headers={"authorization": header})
            assert reply.status_code == status, header


def test_the_openapi_page_shows_where_a_key_is_needed(locked_app: FastAPI, class_app: FastAPI) -> None:
    locked, open_ = locked_app.openapi(), class_app.openapi()
    for path, operations in locked["paths"].items():
        for method, operation in operations.items():
            needs_key = path not in OPEN_PATHS
            assert ("security" in operation) == needs_key == ("401" in operation["responses"]), path
            assert "security" not in open_["paths"][path][method]
    assert "securitySchemes" not in open_["components"]


async def test_the_stock_client_with_and_without_its_key(locked_app: FastAPI) -> None:
    async with client_of(locked_app) as http_client:
        good = AsyncOpenAI(api_key="s3cret", base_url="http://test/v1", http_client=http_client, max_retries=0)
        assert (await good.models.retrieve("tiny")).id == "tiny"
        bad = AsyncOpenAI(api_key="wrong", base_url="http://test/v1", http_client=http_client, max_retries=0)
        with pytest.raises(openai.AuthenticationError) as error:
            await bad.images.generate(prompt="x")
        assert error.value.request_id == error.value.response.headers["x-request-id"]


async def test_large_bodies_are_413(class_client: httpx.AsyncClient) -> None:
    start = b'--x\r\ncontent-disposition: form-data; name="image"; filename="a"\r\n\r\n'

    async def chunks(limit: int) -> AsyncIterator[bytes]:
        yield start
        for _ in range(limit // 2**20):
            yield bytes(2**20)

    for path, limit in {"/generate": MAX_BODY, "/v1/images/generations": MAX_BODY, **MAX_IMAGE_BODY}.items():
        headers = {"content-type": "multipart/form-data; boundary=x"}
        for content in (start + bytes(limit), chunks(limit)):
            reply = await class_client.post(path, content=content, headers=headers)
            assert reply.status_code == 413, reply.text
            assert f"the body has more than {limit} bytes" in reply.json()["error"]["message"]


async def test_health_follows_the_engine(class_client: httpx.AsyncClient, class_app: FastAPI) -> None:
    probes = ("/health", "/ready", "/ping")
    for probe in probes:
        assert (await class_client.get(probe)).status_code == 200
    assert (await class_client.post("/ping")).status_code == 200
    assert (await class_client.get("/load")).json() == {"server_load": 0}
    assert (await class_client.get("/version")).json()["version"]
    class_app.state.draining = True
    for path in (*probes, "/load"):
        reply = await class_client.get(path)
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "5")
        assert reply.json()["error"]["message"] == "the server is stopping"
    class_app.state.draining = False
    class_app.state.pipeline.engine.dead = True
    assert (await class_client.get("/ready")).status_code == 503
    class_app.state.pipeline = None
    reply = await class_client.post("/generate", json={"class_id": 1})
    assert (reply.status_code, reply.json()["error"]["type"]) == (503, "service_unavailable_error")


async def metrics(client: httpx.AsyncClient) -> dict[str, float]:
    reply = await client.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain")
    samples = [sample for family in text_string_to_metric_families(reply.text) for sample in family.samples]
    return {f"{s.name}{','.join(s.labels.values())}": s.value for s in samples if s.name.startswith("llamagen_")}


async def test_metrics_count_what_happens(class_client: httpx.AsyncClient, class_app: FastAPI) -> None:
    before = await metrics(class_client)
    engine = class_app.state.pipeline.engine
    await class_client.post("/generate", json={"class_id": 1, "n": 3})
    await class_client.post("/generate", json={"class_id": 1, "stream": True, "partial_images": 2})
    await class_client.post("/generate", json={"class_id": 5000})
    engine.error = EngineError("gone")
    await class_client.post("/generate", json={"class_id": 1})
    after = await metrics(class_client)
    grown = {name: value - before.get(name, 0) for name, value in after.items()}
    assert grown["llamagen_requests_totalok"] == 2
    assert grown["llamagen_requests_totalrefused"] == 1
    assert grown["llamagen_requests_totalfailed"] == 1
    assert grown["llamagen_requests_totalabandoned"] == 0
    assert grown["llamagen_images_total"] == 4
    assert grown["llamagen_first_preview_seconds_count"] == 1
    assert grown["llamagen_stage_seconds_countengine"] == 5
    assert grown["llamagen_stage_seconds_countdecode"] == 6
    assert grown["llamagen_http_replies_total400"] == 1
    assert after["llamagen_images_in_flight"] == 0


async def test_the_model_describes_itself(class_client: httpx.AsyncClient, class_app: FastAPI) -> None:
    [listed] = (await class_client.get("/v1/models")).json()["data"]
    assert listed["condition"] == "class"
    assert (listed["image_size"], listed["grid_size"], listed["guided"]) == (64, 8, True)
    assert listed["defaults"].keys() == {"cfg_scale", "temperature", "top_k", "top_p"}
    one = (await class_client.get("/v1/models/tiny")).json()
    labels = class_app.state.pipeline.model.labels
    assert one == listed | ({"labels": {str(k): v for k, v in labels.items()}} if labels else {})
    assert (await class_client.get("/v1/models/other")).status_code == 404
