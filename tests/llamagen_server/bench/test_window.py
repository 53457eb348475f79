"""The rule that follows from the speed of decode windows. `tests/vllm_llamagen/v2` has a real run."""

from __future__ import annotations

from typing import Any

import pytest

from llamagen_server.bench.engine_options import EngineOptions
from llamagen_server.bench.tables import window_table
from llamagen_server.bench.window import fastest_windows, measure_windows
from llamagen_server.engine.window_rule import window_ranges


def rows(speeds: dict[int, dict[int, float]]) -> list[dict[str, Any]]:
    """``speeds``: images/s by batch size and window."""
    return [
        {"batch": batch, "window": window, "images_per_s": speed}
        for batch, by_window in speeds.items()
        for window, speed in by_window.items()
    ]


def test_the_rule_takes_the_fastest_window_for_each_batch_size() -> None:
    measured = rows(
        {1: {0: 1, 4: 3, 16: 5}, 4: {0: 4, 4: 9, 16: 10}, 16: {0: 12, 4: 20, 16: 15}, 64: {0: 40, 4: 38, 16: 20}}
    )
    rule = fastest_windows(measured)
    assert rule == "1-4:16,5-16:4,17-64:0"
    assert window_ranges(rule, 16, 2) == [(1, 4, 16), (5, 16, 4), (17, 64, 0), (65, 65, 0)]
    assert fastest_windows(rows({2: {0: 1, 4: 3}, 8: {0: 1, 4: 2}})) == "1-8:4"


def test_the_table() -> None:
    assert window_table(rows({8: {0: 2.0, 4: 3.5}, 1: {0: 1.0}})).splitlines() == [
        "| batch | window 0 | window 4 |",
        "|---|---|---|",
        "| 1 | 1.000 |  |",
        "| 8 | 2.000 | 3.500 |",
    ]


def test_random_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="--calibrate-window needs --model"):
        measure_windows(EngineOptions())
