"""The queueing model: against closed forms, and against a simulation of batching."""

from __future__ import annotations

import itertools
import math

import pytest

from llamagen_server.bench.queueing import ServiceCurve, predict, simulate, stationary, sustainable_rate

DEMO = ServiceCurve(((1, 3.23), (2, 6.52), (4, 9.94), (8, 13.5), (16, 16.4), (32, 17.2), (64, 17.4)), 256)
"""Measured on the demo's server (docs/benchmarks.md): speeds up slowly and never fills its batch."""
SMALL_BATCH = ServiceCurve(((1, 0.158), (8, 0.831)), 8)
"""Measured on GPT-B's engine (docs/benchmarks.md), as if its batch had 8 places."""


def servers(count: int) -> ServiceCurve:
    """``count`` servers that need a second for an image."""
    return ServiceCurve(tuple((n, float(n)) for n in range(1, count + 1)), count)


def erlang_c(count: int, load: float) -> float:
    """Probability that an arrival has to wait for one of ``count`` servers."""
    full = load**count / math.factorial(count) * count / (count - load)
    return full / (sum(load**n / math.factorial(n) for n in range(count)) + full)


@pytest.mark.parametrize(("count", "load"), [(1, 0.5), (4, 2.0), (4, 3.6), (32, 28.0)])
def test_constant_rates_give_erlangs_formula(count: int, load: float) -> None:
    chain = stationary(servers(count), load)
    assert sum(chain) == pytest.approx(1, abs=1e-7)
    assert sum(chain[count:]) == pytest.approx(erlang_c(count, load), rel=1e-6)
    waiting = sum((n - count) * p for n, p in enumerate(chain) if n > count)
    assert waiting == pytest.approx(erlang_c(count, load) * load / (count - load), rel=1e-4)


def test_one_place_with_constant_work_gives_pollaczek_and_khinchine() -> None:
    for load in (0.3, 0.6, 0.8):
        expected = 1 + load / (2 * (1 - load))
        assert predict(servers(1), load).mean == pytest.approx(expected, rel=1e-4)
        assert simulate(servers(1), load, steps=1, count=100_000).mean == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("utilisation", [0.3, 0.7, 0.95])
def test_the_mean_is_that_of_littles_law(utilisation: float) -> None:
    """In a batch that never fills, as processor sharing."""
    rate = utilisation * DEMO.saturation
    endless = ServiceCurve(DEMO.points, 10**6)
    in_server = sum(n * p for n, p in enumerate(stationary(endless, rate)))
    assert predict(endless, rate).mean == pytest.approx(in_server / rate, rel=1e-4)


@pytest.mark.parametrize("curve", [DEMO, SMALL_BATCH, servers(8)], ids=["demo", "small batch", "constant"])
@pytest.mark.parametrize("utilisation", [0.3, 0.5, 0.7, 0.8])
def test_the_model_agrees_with_the_simulation(curve: ServiceCurve, utilisation: float) -> None:
    rate = utilisation * curve.saturation
    model, simulated = predict(curve, rate), simulate(curve, rate, steps=16, count=60_000)
    assert model.mean == pytest.approx(simulated.mean, rel=0.06)
    assert model.p50 == pytest.approx(simulated.p50, rel=0.08)
    assert model.p99 == pytest.approx(simulated.p99, rel=0.15)


@pytest.mark.parametrize("curve", [ServiceCurve(DEMO.points[2:], 256), SMALL_BATCH, servers(8)])
def test_latency_grows_with_the_rate(curve: ServiceCurve) -> None:
    found = [predict(curve, step / 20 * curve.saturation) for step in range(1, 20)]
    for name in ("mean", "p50", "p99"):
        values = [getattr(latency, name) for latency in found]
        assert all(later > earlier * (1 - 1e-9) for earlier, later in itertools.pairwise(values))
    assert predict(curve, 0.001 * curve.saturation).mean == pytest.approx(curve.latency(1), rel=0.01)


def test_the_sustainable_rate_is_the_highest_within_the_limit() -> None:
    rate = sustainable_rate(DEMO, 1.2)
    assert predict(DEMO, rate).p99 <= 1.2 < predict(DEMO, rate + 0.002 * DEMO.saturation).p99
    assert sustainable_rate(DEMO, 0.9 * DEMO.latency(1)) == 0
    assert sustainable_rate(DEMO, 1e9) == pytest.approx(0.999 * DEMO.saturation)


def test_rates_between_and_after_the_points() -> None:
    curve = ServiceCurve(((2, 4.0), (4, 6.0)), 8)
    assert [curve.rate(n) for n in (1, 2, 3, 4, 8, 100)] == [2, 4, 5, 6, 6, 6]
    assert [curve.latency(n) for n in (2, 8, 20)] == [0.5, 8 / 6, 8 / 6 + 12 / 6 / 2]


@pytest.mark.parametrize("rate", [0, 17.4, 20])
def test_rates_outside_the_model_are_refused(rate: float) -> None:
    with pytest.raises(ValueError, match=f"the rate is {rate:g} images/s, must be above 0 and below 17.4"):
        predict(DEMO, rate)


@pytest.mark.parametrize(
    ("points", "places"), [((), 4), (((1, 0.0),), 4), (((1, math.inf),), 4), (((0, 1.0),), 4), (((1, 1.0),), 0)]
)
def test_wrong_curves_are_refused(points: tuple[tuple[int, float], ...], places: int) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        ServiceCurve(points, places)
