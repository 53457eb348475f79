"""Outcomes of a load test's requests, and the figures of a run."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

STAGES = ("text", "engine", "decode", "file")
"""Parts of a request that the server's replies time."""
METRICS = ("e2el", "ttfp", *STAGES)
"""Times that percentiles can be reported of: end-to-end latency, time to first preview, and the stages."""

Row = dict[str, Any]
"""Figures of one run by name, see `summary`."""


@dataclass
class Outcome:
    """Outcome of one request."""

    number: int = 0
    """Number of the request, see `llamagen_server.bench.requests.Requests`."""
    start: float = 0.0
    """Time at which the request was due, or was sent in a closed loop; as from ``time.perf_counter``."""
    late_ms: float = 0.0
    """Milliseconds from ``start`` until this client sent the request."""
    error: str | None = None
    error_kind: str | None = None
    """HTTP status such as ``429``, ``timeout``, ``stream``, or the name of an exception."""
    images: int = 0
    """Finished images in the reply."""
    times: dict[str, float] = field(default_factory=dict)
    """Milliseconds by metric; other stages that the reply times are there too."""

    @property
    def end(self) -> float:
        """Time at which the reply was complete or had failed."""
        return self.start + self.times["e2el"] / 1000


def summary(
    outcomes: Sequence[Outcome],
    seconds: float,
    metrics: Sequence[str],
    percentiles: Sequence[float],
    goodput_ms: float | None,
) -> Row:
    """Returns the figures of one run of ``seconds`` seconds; names that end in ``_ms`` are milliseconds.

    Args:
        metrics: some of `METRICS`, whose ``percentiles`` are reported.
        percentiles: above 0 and below 100.
        goodput_ms: latency limit of the requests that count as goodput; None: no goodput is reported.
    """
    good = [outcome for outcome in outcomes if outcome.error is None]
    row: Row = {
        "requests": len(outcomes),
        "error_rate": 1 - len(good) / len(outcomes) if outcomes else 0.0,
        "requests_per_s": len(good) / seconds,
        "images_per_s": sum(outcome.images for outcome in good) / seconds,
    }
    if goodput_ms is not None:
        row["goodput_per_s"] = sum(outcome.times["e2el"] <= goodput_ms for outcome in good) / seconds
    for metric in metrics:
        values = times(good, metric)
        for p in percentiles if values else ():
            row[f"{metric}_p{p:g}_ms"] = percentile(values, p)
    for stage in STAGES:
        values = times(good, stage)
        row[f"{stage}_ms"] = statistics.fmean(values) if values else 0.0
    if errors := [outcome.error for outcome in outcomes if outcome.error]:
        row["first_error"] = errors[0]
    return row


def times(outcomes: Sequence[Outcome], metric: str) -> list[float]:
    """Returns the milliseconds of one metric of all outcomes that have it."""
    return [outcome.times[metric] for outcome in outcomes if metric in outcome.times]


def percentile(values: Sequence[float], p: float) -> float:
    """Returns the smallest of the values that at least ``p`` percent of them do not exceed; ``values`` is not empty."""
    return sorted(values)[math.ceil(p / 100 * len(values)) - 1]
