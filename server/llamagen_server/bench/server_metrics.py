"""Figures from the metrics of a running server, between two reads of ``GET /metrics``."""

from __future__ import annotations

import math
from collections import defaultdict

import httpx
from prometheus_client.parser import text_string_to_metric_families

Samples = dict[tuple[str, str], float]
"""(name, upper bound of a histogram's bucket or "") -> value, summed over all other labels."""


async def read_metrics(client: httpx.AsyncClient) -> Samples:
    """Reads the server's metrics. Returns none if it shows none, for example because a proxy hides them."""
    samples: Samples = defaultdict(float)
    try:
        text = (await client.get("/metrics")).raise_for_status().text
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                samples[sample.name, sample.labels.get("le", "")] += sample.value
    except (httpx.HTTPError, ValueError):
        return {}
    return samples


def mean_between(before: Samples, after: Samples, name: str) -> float:
    """Returns the mean of a histogram's observations between two reads; 0 without observations."""
    total, count = (after.get((name + end, ""), 0) - before.get((name + end, ""), 0) for end in ("_sum", "_count"))
    return total / count if count else 0.0


def quantile_between(before: Samples, after: Samples, name: str, q: float) -> float:
    """Returns an upper bound of quantile ``q`` of a histogram's observations between two reads.

    It is the upper bound of the quantile's bucket, or the lower bound of the last bucket, which has no upper one. 0
    without observations.
    """
    counts = {
        float(bound): value - before.get((metric, bound), 0)
        for (metric, bound), value in after.items()
        if metric == f"{name}_bucket"
    }
    if not (total := max(counts.values(), default=0)):
        return 0.0
    bound = next(bound for bound, count in sorted(counts.items()) if count >= q * total)
    return min(bound, max(filter(math.isfinite, counts)))
