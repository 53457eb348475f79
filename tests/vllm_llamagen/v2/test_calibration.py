"""``llamagen bench engine --calibrate-window`` on a real engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamagen_server.bench.engine_options import EngineOptions
from llamagen_server.bench.window import fastest_windows, measure_windows
from llamagen_server.engine.window_rule import window_ranges

pytestmark = pytest.mark.engine


def test_windows_are_timed_and_a_rule_follows(class_model_dir: Path) -> None:
    options = EngineOptions(model=class_model_dir, batch=(1, 3), dtype="float32", enforce_eager=True, repeat=1)
    _, rows = measure_windows(options, windows=(0, 4))
    assert [(row["window"], row["batch"]) for row in rows] == [(0, 1), (0, 3), (4, 1), (4, 3)]
    assert all(row["images_per_s"] > 0 for row in rows)
    assert ["tokens_per_step" in row for row in rows] == [False, False, True, True]
    assert all(1 <= row["tokens_per_step"] <= 5 for row in rows[2:])
    assert window_ranges(fastest_windows(rows), 4, 2)
