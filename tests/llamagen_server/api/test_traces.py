"""The spans of requests, with a fake engine and an exporter in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import httpx
import pytest
from fastapi import FastAPI
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from PIL import Image
from tests.helpers.fake_engine import FakeEngine
from tests.helpers.image_files import b64_png

from llamagen_server.core import telemetry
from llamagen_server.core.errors import EngineStoppedError

TRACE, CALLER = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    telemetry.trace_with(provider)
    yield exporter
    telemetry.trace_with(None)


def tree(spans: InMemorySpanExporter) -> list[tuple[str, str]]:
    """The name of each span and of its parent, sorted."""
    finished = spans.get_finished_spans()
    names = {span.context.span_id: span.name for span in finished}
    return sorted((span.name, names.get(span.parent.span_id, "") if span.parent else "") for span in finished)


def named(spans: InMemorySpanExporter, name: str) -> ReadableSpan:
    [span] = [span for span in spans.get_finished_spans() if span.name == name]
    return span


def engine_of(app: FastAPI) -> FakeEngine:
    engine = app.state.pipeline.engine
    assert isinstance(engine, FakeEngine)
    return engine


async def test_a_request_is_a_tree_of_its_steps(text_client: httpx.AsyncClient, spans: InMemorySpanExporter) -> None:
    reply = await text_client.post("/generate", json={"prompt": "a red circle", "n": 2}, headers={"x-request-id": "me"})
    assert reply.status_code == 200
    per_image = [("decode", "request"), ("engine", "request"), ("file", "request"), ("generate", "engine")]
    assert tree(spans) == sorted([("request", ""), ("text", "request"), *[*per_image, ("queue", "engine")] * 2])
    root = named(spans, "request")
    assert root.kind == SpanKind.SERVER
    assert root.attributes == {
        "llamagen.request_id": "me",
        "llamagen.model": "tiny",
        "llamagen.path": "/generate",
        "llamagen.n": 2,
        "http.response.status_code": 200,
    }
    assert root.status.status_code == StatusCode.UNSET
    images = [span.attributes for span in spans.get_finished_spans() if span.name == "engine"]
    assert images == [{"llamagen.image": 0}, {"llamagen.image": 1}]


async def test_the_trace_of_the_client_goes_on_into_the_engine(
    class_client: httpx.AsyncClient, class_app: FastAPI, spans: InMemorySpanExporter
) -> None:
    await class_client.post(
        "/generate", json={"class_id": 1}, headers={"traceparent": f"00-{TRACE:032x}-{CALLER:016x}-01"}
    )
    root, engine = named(spans, "request"), named(spans, "engine")
    assert root.context.trace_id == TRACE
    assert root.parent is not None
    assert root.parent.span_id == CALLER
    [request] = engine_of(class_app).requests
    assert request.trace_headers == {"traceparent": f"00-{TRACE:032x}-{engine.context.span_id:016x}-01"}


async def test_a_client_that_does_not_sample_is_not_traced(
    class_client: httpx.AsyncClient, spans: InMemorySpanExporter
) -> None:
    headers = {"traceparent": f"00-{TRACE:032x}-{CALLER:016x}-00"}
    assert (await class_client.post("/generate", json={"class_id": 1}, headers=headers)).status_code == 200
    assert tree(spans) == []


async def test_queue_and_generate_share_the_time_of_the_engine(
    class_client: httpx.AsyncClient, class_app: FastAPI, spans: InMemorySpanExporter
) -> None:
    engine_of(class_app).queue_seconds = 0.02
    engine_of(class_app).step = 0.03
    body = {"class_id": 1, "stream": True, "partial_images": 1}
    await class_client.post("/generate", json=body)
    queue, generate, engine = (named(spans, name) for name in ("queue", "generate", "engine"))
    assert queue.end_time - queue.start_time == pytest.approx(0.02e9, rel=0.01)
    assert generate.start_time == pytest.approx(queue.end_time, abs=1e6)
    assert queue.start_time == pytest.approx(engine.start_time, abs=5e6)
    assert generate.end_time == pytest.approx(engine.end_time, abs=5e6)
    assert [name for name, _ in tree(spans)].count("decode") == 2  # the preview and the image


async def test_edits_have_a_span_for_encoding(class_client: httpx.AsyncClient, spans: InMemorySpanExporter) -> None:
    reply = await class_client.post("/v1/images/encode", json={"image": b64_png(Image.new("RGB", (64, 64)))})
    assert reply.status_code == 200, reply.text
    assert tree(spans) == [("encode", "request"), ("request", "")]


@pytest.mark.parametrize(
    ("error", "status"),
    [(EngineStoppedError("gone"), 503), (RuntimeError("a bug"), 500)],
    ids=["expected", "unexpected"],
)
async def test_errors_mark_the_request_and_the_step(
    error: Exception, status: int, class_client: httpx.AsyncClient, class_app: FastAPI, spans: InMemorySpanExporter
) -> None:
    engine_of(class_app).error = error
    assert (await class_client.post("/generate", json={"class_id": 1})).status_code == status
    root, engine = named(spans, "request"), named(spans, "engine")
    assert root.status.status_code == engine.status.status_code == StatusCode.ERROR
    assert (root.attributes or {})["http.response.status_code"] == status
    assert engine.status.description == f"{type(error).__name__}: {error}"
    assert tree(spans) == [("engine", "request"), ("request", "")]


async def test_a_mistake_of_the_client_is_no_error(
    class_client: httpx.AsyncClient, spans: InMemorySpanExporter
) -> None:
    assert (await class_client.post("/generate", json={"class_id": 5000})).status_code == 400
    root = named(spans, "request")
    assert root.status.status_code == StatusCode.UNSET
    assert (root.attributes or {})["http.response.status_code"] == 400


async def test_concurrent_requests_do_not_mix(class_client: httpx.AsyncClient, spans: InMemorySpanExporter) -> None:
    bodies = [{"class_id": 1, "n": n} for n in (1, 2, 3)]
    await asyncio.gather(*(class_client.post("/generate", json=body) for body in bodies))
    finished = spans.get_finished_spans()
    for root in (span for span in finished if span.name == "request"):
        images = [s for s in finished if s.name == "engine" and s.context.trace_id == root.context.trace_id]
        assert len(images) == (root.attributes or {})["llamagen.n"]


async def test_probes_are_not_traced(class_client: httpx.AsyncClient, spans: InMemorySpanExporter) -> None:
    for path in ("/health", "/ready", "/metrics", "/v1/models"):
        assert (await class_client.get(path)).status_code == 200
    assert tree(spans) == []


async def test_without_traces_the_engine_gets_no_headers(class_client: httpx.AsyncClient, class_app: FastAPI) -> None:
    headers = {"traceparent": f"00-{TRACE:032x}-{CALLER:016x}-01"}
    assert (await class_client.post("/generate", json={"class_id": 1}, headers=headers)).status_code == 200
    assert engine_of(class_app).requests[0].trace_headers is None
