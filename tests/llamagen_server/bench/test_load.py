"""Arrival of a load test's requests, and its options."""

from __future__ import annotations

import itertools
import math
import random
import statistics

import pytest

from llamagen_server.bench.load import Kind, Load, LoadOptions, arrival_times


def gaps(burstiness: float) -> list[float]:
    times = arrival_times(Load(rate=10, burstiness=burstiness, num_prompts=5000), random.Random(0))
    return [later - earlier for earlier, later in itertools.pairwise(times)]


def test_arrivals_keep_their_rate() -> None:
    load = Load(rate=10, num_prompts=5000)
    times = list(arrival_times(load, random.Random(0)))
    assert len(times) == 5000
    assert times[0] == 0
    assert times == sorted(times)
    assert times[-1] == pytest.approx(4999 / 10, rel=0.05)
    assert times == list(arrival_times(load, random.Random(0)))
    assert times != list(arrival_times(load, random.Random(1)))


def test_arrivals_end_with_the_duration() -> None:
    load = Load(rate=10, num_prompts=3, duration=200)
    times = list(arrival_times(load, random.Random(0)))
    assert len(times) == pytest.approx(2000, rel=0.1)
    assert 0 < times[0] < times[-1] < 200


@pytest.mark.parametrize("burstiness", [0.25, 1, 4])
def test_burstiness_is_the_shape_of_the_gaps(burstiness: float) -> None:
    values = gaps(burstiness)
    variation = statistics.stdev(values) / statistics.fmean(values)
    assert variation == pytest.approx(burstiness**-0.5, rel=0.1)


def test_names_of_loads() -> None:
    assert (str(Load(concurrency=8)), str(Load(rate=0.5))) == ("8 at a time", "0.5/s")
    assert (str(Kind(n=2)), str(Kind(partial_images=3))) == ("n = 2", "n = 1, 3 previews")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": ("ttft",)}, "--percentile-metrics has 'ttft', must be of e2el, ttfp"),
        ({"percentiles": (50, 100)}, "--metric-percentiles has 100, must be above 0 and below 100"),
        ({"timeout": 0}, "--timeout is 0, must be positive"),
        ({"goodput_ms": 0}, "--goodput is 0, must be positive"),
        ({"prompts": ()}, "--prompts has no prompt"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoadOptions(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("load", "message"),
    [
        ({"rate": -1}, "--request-rate is -1, must be positive"),
        ({"concurrency": 0}, "--max-concurrency is 0, must be positive"),
        ({"rate": 1, "num_prompts": 0}, "--num-prompts is 0, must be positive"),
        ({"rate": 1, "burstiness": -1}, "--burstiness is -1, must be positive"),
        ({"rate": 1, "duration": 0}, "--duration is 0, must be positive"),
    ],
)
def test_wrong_loads_are_refused(load: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Load(**load)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ({"n": 0}, "n is 0, must be 1 to 10"),
        ({"n": 11}, "n is 11, must be 1 to 10"),
        ({"share": -1}, "share is -1, must be positive"),
        ({"share": math.inf}, "share is inf, must be positive and finite"),
        ({"partial_images": 17}, "partial_images is 17, must be 0 to 16"),
    ],
)
def test_wrong_kinds_are_refused(kind: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Kind(**kind)
