"""Health, readiness, load, version and metrics."""

from __future__ import annotations

import httpx
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from llamagen_server.core.errors import EngineError
from llamagen_server.core.metrics import REASONS
from llamagen_server.core.options import Limits


async def test_readiness_follows_the_model_and_the_engine(class_client: httpx.AsyncClient, class_app: FastAPI) -> None:
    probes = ("/ready", "/ping")
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
    assert (await class_client.get("/ready")).status_code == 503
    reply = await class_client.post("/generate", json={"class_id": 1})
    assert (reply.status_code, reply.json()["error"]["type"]) == (503, "service_unavailable_error")


async def test_a_process_that_loads_or_drains_is_alive(class_client: httpx.AsyncClient, class_app: FastAPI) -> None:
    """Otherwise an orchestrator would kill a server that loads a large model, or one that finishes its requests."""
    class_app.state.draining = True
    assert (await class_client.get("/health")).status_code == 200
    class_app.state.pipeline.engine.dead = True
    assert (await class_client.get("/health")).status_code == 503
    class_app.state.pipeline = None
    assert (await class_client.get("/health")).status_code == 200


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
    engine.error = None
    engine.go_on.clear()
    await class_client.post("/generate", json={"class_id": 1, "timeout": 0.5})
    engine.go_on.set()
    class_app.state.pipeline.admission.limits = Limits(max_in_flight=1)
    with class_app.state.pipeline.admission.hold(1):
        await class_client.post("/generate", json={"class_id": 1})
    after = await metrics(class_client)
    grown = {name: value - before.get(name, 0) for name, value in after.items()}
    assert grown["llamagen_requests_totalok"] == 2
    assert grown["llamagen_requests_totalrefused"] == 1
    assert grown["llamagen_requests_totalfailed"] == 1
    assert grown["llamagen_requests_totalabandoned"] == 0
    assert grown["llamagen_requests_totallate"] == 1
    assert grown["llamagen_requests_totaloverloaded"] == 1
    assert {name: grown[f"llamagen_rejected_total{name}"] for name in REASONS} == {"full": 1, "share": 0, "deadline": 0}
    assert grown["llamagen_images_total"] == 4
    assert grown["llamagen_first_preview_seconds_count"] == 1
    assert grown["llamagen_stage_seconds_countengine"] == 6
    assert grown["llamagen_stage_seconds_countdecode"] == 6
    assert grown["llamagen_http_replies_total400"] == 1
    assert after["llamagen_images_in_flight"] == 0
    assert after["llamagen_images_in_flight_limit"] == Limits.max_in_flight
