"""Markdown tables of measured figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

ENGINE_COLUMNS = {
    "engine_s": ("seconds", 2),
    "images_per_s": ("images/s", 3),
    "tokens_per_s": ("tokens/s", 1),
    "step_ms": ("ms per step", 1),
    "roofline_s": ("roofline, s", 2),
    "roofline_fraction": ("fraction of roofline", 2),
    "min_p_s": ("with cfg_min_p, s", 2),
    "min_p_cost_percent": ("its cost, %", 1),
    "eager_s": ("eager, s", 2),
    "ratio": ("times as fast as eager", 2),
    "tokens_per_step": ("tokens per step of an image", 2),
}
"""Heading and digits of each figure of `llamagen_server.bench.engine.figures`. The last five are not always there.

A figure of the baseline is None if it ran out of memory.
"""


def engine_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the table of ``llamagen bench engine``: one line per batch size."""
    columns = {name: column for name, column in ENGINE_COLUMNS.items() if name in rows[0]}
    lines = [
        [str(row["batch"]), *(_figure(row[name], digits) for name, (_, digits) in columns.items())] for row in rows
    ]
    return _table(["batch", *(heading for heading, _ in columns.values())], lines)


def _figure(value: float | None, digits: int) -> str:
    return "out of memory" if value is None else f"{value:.{digits}f}"


def window_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the table of ``--calibrate-window``: images/s of each batch size (lines) with each window (columns)."""
    windows = sorted({row["window"] for row in rows})
    images_per_s = {(row["batch"], row["window"]): f"{row['images_per_s']:.3f}" for row in rows}
    lines = [
        [str(batch), *(images_per_s.get((batch, window), "") for window in windows)]
        for batch in sorted({row["batch"] for row in rows})
    ]
    return _table(["batch", *(f"window {window}" for window in windows)], lines)


def load_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the table of ``llamagen bench serve``: one line per load, floats with at least three digits."""
    names = [name for name in rows[0] if name != "first_error"]
    return _table(names, ([_text(row.get(name, "")) for name in names] for row in rows))


def _text(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 100 else f"{round(value, 4):.3g}"  # no exponents


def _table(headings: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    text = [f"| {' | '.join(line)} |" for line in [headings, *lines]]
    text.insert(1, "|---" * len(headings) + "|")
    return "\n".join(text)
