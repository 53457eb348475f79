"""The speed of decode windows, and the rule that follows from it (``--decode-window-rule``)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from llamagen_server.bench.engine import EngineResult, Row, measure_engine
from llamagen_server.bench.engine_options import EngineOptions

WINDOWS = (0, 1, 2, 4, 8, 16)


def measure_windows(options: EngineOptions, windows: Iterable[int] = WINDOWS) -> tuple[EngineResult, list[Row]]:
    """Times an engine with each window at each batch size.

    Returns:
        The result of the last window, for its conditions; and a row of figures for each window and batch size.

    Raises:
        ValueError: as `measure_engine`; or the options have no model, whose images decide how many guesses are right.
    """
    if options.model is None:
        raise ValueError("--calibrate-window needs --model: with random weights few guesses are right")
    rows: list[Row] = []
    for window in windows:
        result = measure_engine(replace(options, decode_window=window))
        rows += [{**row, "window": window} for row in result.rows]
    return result, rows


def fastest_windows(rows: Iterable[Row]) -> str:
    """Returns the rule of the fastest window for each number of images, such as ``1-4:16,5-16:4``.

    Batch sizes between two measured ones get the window of the larger one; those beyond the largest get none.
    """
    best: dict[int, Row] = {}
    for row in rows:
        if row["batch"] not in best or row["images_per_s"] > best[row["batch"]]["images_per_s"]:
            best[row["batch"]] = row
    ranges: list[tuple[int, int, int]] = []
    for batch in sorted(best):
        window, first = best[batch]["window"], ranges[-1][1] + 1 if ranges else 1
        if ranges and ranges[-1][2] == window:
            first = ranges.pop()[0]
        ranges.append((first, batch, window))
    return ",".join(f"{first}-{last}:{window}" for first, last, window in ranges)
