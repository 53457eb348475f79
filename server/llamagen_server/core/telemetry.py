"""Times of a request's steps: in the histogram of stages, and as spans of OpenTelemetry where traces are on.

`serving.tracing` turns traces on. Until then nothing of OpenTelemetry is imported here, and a span is a null context.
Attributes of ours start with ``llamagen.``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from llamagen_server.core import metrics

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer, TracerProvider

_tracer: Tracer | None = None


def trace_with(provider: TracerProvider | None) -> None:
    """Turns traces on: spans go to this provider. None turns them off."""
    global _tracer
    _tracer = None if provider is None else provider.get_tracer("llamagen_server")


@contextmanager
def stage(name: str, **attributes: Any) -> Iterator[None]:
    """Times a stage, one of `metrics.STAGES`, queue included, whether it succeeds or not."""
    with metrics.STAGE.labels(name).time(), _span(name, attributes):
        yield


def request_span(headers: Mapping[str, str], **attributes: Any) -> AbstractContextManager[Span | None]:
    """Opens the root span of a request. It continues the client's trace if the headers have a ``traceparent``."""
    if _tracer is None:
        return nullcontext()
    from opentelemetry.propagate import extract
    from opentelemetry.trace import SpanKind

    return _tracer.start_as_current_span(
        "request", context=extract(headers), kind=SpanKind.SERVER, attributes=_names(attributes)
    )


def annotate(**attributes: Any) -> None:
    """Adds attributes to the current span."""
    if _tracer is not None:
        from opentelemetry.trace import get_current_span

        get_current_span().set_attributes(_names(attributes))


def record_spans(start: float, **seconds: float) -> None:
    """Records spans below the current one that are over: one after the other, each with its length.

    ``start`` is the Unix time at which the first began.
    """
    if _tracer is None:
        return
    for name, length in seconds.items():
        span = _tracer.start_span(name, start_time=round(start * 1e9))
        start += length
        span.end(round(start * 1e9))


def trace_headers() -> Mapping[str, str] | None:
    """Returns the headers by which another process continues the current trace; None if there is none."""
    if _tracer is None:
        return None
    from opentelemetry.propagate import inject

    headers: dict[str, str] = {}
    inject(headers)
    return headers or None


def _span(name: str, attributes: Mapping[str, Any]) -> AbstractContextManager[object]:
    return nullcontext() if _tracer is None else _tracer.start_as_current_span(name, attributes=_names(attributes))


def _names(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {f"llamagen.{name}": value for name, value in attributes.items()}
