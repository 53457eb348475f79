"""Traces by the standard environment variables: what turns them on, what they build, and that they cost nothing off."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
from tests.helpers.server_process import Server
from tests.helpers.waiting import until

from llamagen_server import __version__
from llamagen_server.core import telemetry
from llamagen_server.serving import tracing
from llamagen_server.serving.tracing import start_tracing

HTTP = {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}


@pytest.fixture
def providers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[TracerProvider]]:
    """The providers that are set for the whole process, which cannot be undone."""
    found: list[TracerProvider] = []
    for name in ("SDK_DISABLED", "TRACES_EXPORTER", "SERVICE_NAME", "RESOURCE_ATTRIBUTES", "EXPORTER_OTLP_ENDPOINT"):
        monkeypatch.delenv(f"OTEL_{name}", raising=False)
    monkeypatch.setattr(trace, "set_tracer_provider", found.append)
    yield found
    telemetry.trace_with(None)
    for provider in found:
        provider.shutdown()


def set_variables(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def exporters(provider: TracerProvider) -> list[type]:
    processors = provider._active_span_processor._span_processors
    assert all(isinstance(processor, BatchSpanProcessor) for processor in processors)
    return [type(processor.span_exporter) for processor in processors]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, [GrpcExporter]),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", **HTTP}, [HttpExporter]),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1"}, [GrpcExporter]),
        ({"OTEL_TRACES_EXPORTER": "console"}, [ConsoleSpanExporter]),
        ({"OTEL_TRACES_EXPORTER": "otlp,console", **HTTP}, [HttpExporter, ConsoleSpanExporter]),
    ],
)
def test_what_turns_traces_on(
    variables: dict[str, str],
    expected: list[type],
    providers: list[TracerProvider],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_variables(monkeypatch, variables)
    start_tracing()
    [provider] = providers
    assert exporters(provider) == expected
    assert telemetry._tracer is not None


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
        {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
        {"OTEL_SERVICE_NAME": "images"},
    ],
)
def test_what_leaves_them_off(
    variables: dict[str, str], providers: list[TracerProvider], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_variables(monkeypatch, variables)
    start_tracing()
    assert providers == []
    assert telemetry._tracer is None


def test_the_flag_of_vllm_leaves_the_provider_to_vllm(providers: list[TracerProvider]) -> None:
    start_tracing("http://127.0.0.1:1")
    assert providers == []
    assert telemetry._tracer is not None


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER is 'zipkin', must be one of otlp, console, none"),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"},
            "OTEL_EXPORTER_OTLP_PROTOCOL is 'http/json', must be one of grpc, http/protobuf",
        ),
    ],
)
def test_values_that_are_not_supported(
    variables: dict[str, str], message: str, providers: list[TracerProvider], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_variables(monkeypatch, variables)
    with pytest.raises(ValueError, match=message):
        start_tracing()


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({}, "llamagen-serve"),
        ({"OTEL_SERVICE_NAME": "images"}, "images"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=images"}, "images"),
    ],
)
def test_the_name_of_the_service(variables: dict[str, str], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, variables)
    attributes = tracing._resource().attributes
    assert (attributes["service.name"], attributes["service.version"]) == (name, __version__)


def test_without_traces_nothing_of_opentelemetry_is_imported() -> None:
    code = (
        "import asyncio, sys\n"
        "from llamagen_server.core import telemetry\n"
        "from llamagen_server.serving.tracing import start_tracing\n"
        "start_tracing()\n"
        "with telemetry.request_span({}, n=1), telemetry.stage('text'):\n"
        "    telemetry.annotate(n=1)\n"
        "    telemetry.record_spans(0.0, queue=1.0)\n"
        "    assert telemetry.trace_headers() is None\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """A collector of traces on a free port."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.server = grpc.server(ThreadPoolExecutor(1))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self.server)
        self.endpoint = f"http://127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        for resource in request.resource_spans:
            self.spans += [span for scope in resource.scope_spans for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()

    def named(self, name: str, trace_id: bytes) -> Any:
        [span] = [span for span in self.spans if span.name == name and span.trace_id == trace_id]
        return span


@pytest.mark.engine
@pytest.mark.parametrize(
    "by_flag",
    [pytest.param(False, marks=pytest.mark.long, id="variables"), pytest.param(True, id="flag of vLLM")],
)
async def test_the_spans_of_a_request_arrive(
    by_flag: bool, text_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector = Collector()
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    if not by_flag:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
    flags = ["--otlp-traces-endpoint", collector.endpoint] if by_flag else []
    server = Server(text_model_dir, tmp_path / "log", arguments=flags)
    trace_id = bytes.fromhex("0af7651916cd43dd8448eb211c80319c")
    expected = {"request", "text", "engine", "queue", "generate", "decode", "file"} | (
        {"llm_request"} if by_flag else set()
    )

    async def have_arrived() -> bool:
        return {span.name for span in collector.spans if span.trace_id == trace_id} == expected

    try:
        headers = {"traceparent": f"00-{trace_id.hex()}-b7ad6b7169203331-01"}
        async with httpx.AsyncClient(base_url=server.url, timeout=120) as client:
            reply = await client.post("/generate", json={"prompt": "a cat"}, headers=headers)
        assert reply.status_code == 200
        await until(have_arrived, seconds=30)
    finally:
        server.kill()
        collector.server.stop(None)
    engine, queue, generate = (collector.named(name, trace_id) for name in ("engine", "queue", "generate"))
    assert queue.end_time_unix_nano > queue.start_time_unix_nano
    assert generate.start_time_unix_nano == queue.end_time_unix_nano
    assert generate.end_time_unix_nano <= engine.end_time_unix_nano
    if by_flag:
        assert collector.named("llm_request", trace_id).parent_span_id == engine.span_id
    assert "Traceback" not in server.log.read_text()
