"""Traces by the standard environment variables: what turns them on, what they build, and that they cost nothing off."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

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
