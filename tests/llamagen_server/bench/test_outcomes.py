"""Figures of a load test's outcomes."""

from __future__ import annotations

import pytest

from llamagen_server.bench.outcomes import Outcome, percentile, summary


def test_summary() -> None:
    outcomes = [Outcome(images=1, times={"e2el": float(ms)}) for ms in range(1, 101)] + [Outcome(error="boom")]
    row = summary(outcomes, 10.0, ["e2el"], [50, 99], 20)
    assert (row["e2el_p50_ms"], row["e2el_p99_ms"]) == (50, 99)
    assert (row["requests_per_s"], row["images_per_s"], row["goodput_per_s"]) == (10, 10, 2)
    assert row["error_rate"] == pytest.approx(1 / 101)
    assert row["first_error"] == "boom"


def test_stages_are_means_over_the_requests_that_have_them() -> None:
    outcomes = [Outcome(times={"e2el": 9.0, "engine": 4.0}), Outcome(times={"e2el": 9.0, "engine": 6.0})]
    row = summary(outcomes, 1.0, ["ttfp"], [50], None)
    assert (row["engine_ms"], row["text_ms"]) == (5, 0)
    assert not {"ttfp_p50_ms", "goodput_per_s", "first_error"} & row.keys()


def test_percentiles_are_values_that_occurred() -> None:
    assert [percentile([4.0, 1.0, 3.0, 2.0], p) for p in (1, 25, 50, 51, 99)] == [1, 1, 2, 3, 4]


def test_a_run_without_requests_has_no_errors() -> None:
    assert summary([], 1.0, ["e2el"], [50], None)["error_rate"] == 0
