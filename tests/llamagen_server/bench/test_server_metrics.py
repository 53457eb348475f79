"""Figures from two reads of a server's metrics."""

from __future__ import annotations

from llamagen_server.bench.server_metrics import mean_between, quantile_between

NAME = "llamagen_event_loop_lag_seconds"
BUCKETS = ("0.01", "0.1", "+Inf")


def buckets(*counts: float) -> dict[tuple[str, str], float]:
    return {(f"{NAME}_bucket", bound): count for bound, count in zip(BUCKETS, counts, strict=True)}


def test_quantile() -> None:
    before, after = buckets(10, 10, 10), buckets(108, 110, 110)
    assert quantile_between(before, after, NAME, 0.9) == 0.01
    assert quantile_between(before, after, NAME, 0.99) == 0.1
    assert quantile_between(before, before, NAME, 0.99) == 0
    assert quantile_between({}, {}, NAME, 0.99) == 0


def test_the_last_bucket_has_its_lower_bound() -> None:
    assert quantile_between(buckets(10, 10, 10), buckets(108, 110, 500), NAME, 0.99) == 0.1


def test_mean() -> None:
    before, after = ({(f"{NAME}_sum", ""): total, (f"{NAME}_count", ""): count} for total, count in ((1, 2), (4, 4)))
    assert mean_between(before, after, NAME) == 1.5
    assert mean_between({}, {}, NAME) == 0
