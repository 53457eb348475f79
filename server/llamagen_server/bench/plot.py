"""Plots of load tests, as image files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llamagen_server.bench.outcomes import Row
from llamagen_server.image_files.figure import figure_class


def plot(rows: Sequence[Row], path: Path) -> None:
    """Plots latency over throughput, one point per load and one line per percentile.

    Raises:
        ValueError: matplotlib is missing.
    """
    figure = figure_class()(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    percentiles = [name for name in rows[0] if name.startswith("e2el_p")]
    for name in percentiles:
        label = name.removeprefix("e2el_").removesuffix("_ms")
        axes.plot([r["images_per_s"] for r in rows], [r[name] / 1000 for r in rows], marker="o", label=label)
    for row in rows:
        point = (row["images_per_s"], row[percentiles[0]] / 1000)
        axes.annotate(row["load"], point, (-6, 6), textcoords="offset points", ha="right", fontsize="small")
    axes.set(xlabel="images per second", ylabel="seconds per request", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)
