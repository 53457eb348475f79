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

    error: str | None = None
    images: int = 0
    """Finished images in the reply."""
    times: dict[str, float] = field(default_factory=dict)
    """Milliseconds by metric; other stages that the reply times are there too."""


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
        "error_rate": 1 - len(good) / len(outcomes),
        "requests_per_s": len(good) / seconds,
        "images_per_s": sum(outcome.images for outcome in good) / seconds,
    }
    if goodput_ms is not None:
        row["goodput_per_s"] = sum(outcome.times["e2el"] <= goodput_ms for outcome in good) / seconds
    for metric in metrics:
        values = sorted(_times(good, metric))
        for p in percentiles if values else ():
            row[f"{metric}_p{p:g}_ms"] = values[math.ceil(p / 100 * len(values)) - 1]
    for stage in STAGES:
        values = _times(good, stage)
        row[f"{stage}_ms"] = statistics.fmean(values) if values else 0.0
    if errors := [outcome.error for outcome in outcomes if outcome.error]:
        row["first_error"] = errors[0]
    return row


def _times(outcomes: Sequence[Outcome], metric: str) -> list[float]:
    return [outcome.times[metric] for outcome in outcomes if metric in outcome.times]
