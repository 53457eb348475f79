"""Arrival of a load test's requests, and its options."""

from __future__ import annotations

import itertools
import statistics

import pytest

from llamagen_server.bench.load import Load, LoadOptions, arrival_times


def gaps(burstiness: float) -> list[float]:
    times = arrival_times(5000, rate=10, burstiness=burstiness, seed=0)
    return [later - earlier for earlier, later in itertools.pairwise(times)]


def test_arrivals_keep_their_rate() -> None:
    times = arrival_times(5000, rate=10, burstiness=1, seed=0)
    assert len(times) == 5000
    assert times[0] == 0
    assert times == sorted(times)
    assert times[-1] == pytest.approx(4999 / 10, rel=0.05)
    assert times == arrival_times(5000, rate=10, burstiness=1, seed=0)
    assert times != arrival_times(5000, rate=10, burstiness=1, seed=1)


@pytest.mark.parametrize("burstiness", [0.25, 1, 4])
def test_burstiness_is_the_shape_of_the_gaps(burstiness: float) -> None:
    values = gaps(burstiness)
    variation = statistics.stdev(values) / statistics.fmean(values)
    assert variation == pytest.approx(burstiness**-0.5, rel=0.1)


def test_names_of_loads() -> None:
    assert (str(Load(concurrency=8)), str(Load(rate=0.5))) == ("8 at a time", "0.5/s")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": ("ttft",)}, "--percentile-metrics has 'ttft', must be of e2el, ttfp"),
        ({"percentiles": (50, 100)}, "--metric-percentiles has 100, must be above 0 and below 100"),
        ({"num_prompts": 0}, "--num-prompts is 0, must be positive"),
        ({"burstiness": -1}, "--burstiness is -1, must be positive"),
        ({"goodput_ms": 0}, "--goodput is 0, must be positive"),
        ({"prompts": ()}, "--prompts has no prompt"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoadOptions(**options)  # type: ignore[arg-type]


def test_wrong_loads_are_refused() -> None:
    with pytest.raises(ValueError, match="--request-rate is -1, must be positive"):
        Load(rate=-1)
    with pytest.raises(ValueError, match="--max-concurrency is 0, must be positive"):
        Load(concurrency=0)
