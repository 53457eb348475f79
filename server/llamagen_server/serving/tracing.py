"""Traces by OpenTelemetry, configured by its standard environment variables.

The exporters, the batches and the sampler read their own variables (``OTEL_EXPORTER_OTLP_*``, ``OTEL_BSP_*``,
``OTEL_TRACES_SAMPLER``); here are those that decide what is built. vLLM requires the packages, so they are there.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from llamagen_server import __version__
from llamagen_server.core import telemetry

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.export import SpanExporter

EXPORTERS = ("otlp", "console", "none")
PROTOCOLS = ("grpc", "http/protobuf")


def start_tracing(vllm_endpoint: str | None = None) -> None:
    """Turns traces on if the environment asks for them. Imports nothing of OpenTelemetry otherwise.

    Args:
        vllm_endpoint: the flag ``--otlp-traces-endpoint``. vLLM then makes the provider, and our spans go there too.

    Raises:
        ValueError: a variable has a value that is not supported.
    """
    if not (exporters := _exporters()) and not vllm_endpoint:
        return
    from opentelemetry import trace

    if not vllm_endpoint:
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        provider = TracerProvider(resource=_resource())
        for name in exporters:
            provider.add_span_processor(BatchSpanProcessor(_exporter(name)))
        trace.set_tracer_provider(provider)
    telemetry.trace_with(trace.get_tracer_provider())


def _exporters() -> list[str]:
    """Returns the exporters to use. Unlike in OpenTelemetry's specification, none without a variable that asks."""
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return []
    has_endpoint = any(os.environ.get(f"OTEL_EXPORTER_OTLP_{kind}ENDPOINT") for kind in ("", "TRACES_"))
    names = os.environ.get("OTEL_TRACES_EXPORTER") or ("otlp" if has_endpoint else "none")
    for name in names.split(","):
        if name not in EXPORTERS:
            raise ValueError(f"OTEL_TRACES_EXPORTER is {name!r}, must be one of {', '.join(EXPORTERS)}")
    return [name for name in names.split(",") if name != "none"]


def _exporter(name: str) -> SpanExporter:
    if name == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter()
    variables = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    protocol = next((os.environ[name] for name in variables if os.environ.get(name)), "grpc")
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

        return GrpcExporter()
    if protocol == "http/protobuf":
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

        return HttpExporter()
    raise ValueError(f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol!r}, must be one of {', '.join(PROTOCOLS)}")


def _resource() -> Resource:
    """Returns the description of this service; the environment's (``OTEL_SERVICE_NAME``) comes first."""
    from opentelemetry.sdk.resources import Resource

    resource = Resource.create({"service.version": __version__})
    if str(resource.attributes["service.name"]).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": "llamagen-serve"}))
    return resource
