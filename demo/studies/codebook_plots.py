"""Plots and the table of the codebook study."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from statistics import mean
from typing import Any

from demo.studies.files import save_plot
from llamagen_server.image_files.figure import figure_class

Result = dict[str, Any]
"""A line of the results, see `demo.studies.codebook`."""

KINDS = {
    ("emoji", True): "emoji, unit vectors (l2 norm)",
    ("emoji", False): "emoji, without l2 norm",
    ("shapes", True): "shapes, unit vectors (l2 norm)",
}
FIGURES: dict[str, Callable[[Result], float]] = {
    "share of the codebook used": lambda r: r["used"] / r["size"],
    "perplexity of the codes": lambda r: r["perplexity"],
    "PSNR in dB": lambda r: r["psnr"],
    "SSIM": lambda r: r["ssim"],
}


def plot_all(results: Sequence[Result], out: Path) -> None:
    """Writes ``codebook-use.svg``, ``codebook-dead.svg`` and ``codebook-spectrum.svg``.

    Raises:
        ValueError: matplotlib is missing.
    """
    plot_use(results, out / "codebook-use.svg")
    plot_dead(results, out / "codebook-dead.svg")
    plot_spectrum(results, out / "codebook-spectrum.svg")


def plot_use(results: Sequence[Result], path: Path) -> None:
    """Plots each of `FIGURES` over the size of the codebook: means of the seeds, with the range as a band."""
    kinds = _kinds(results)
    figure = figure_class()(figsize=(5 * len(kinds), 3 * len(FIGURES)), layout="constrained")
    rows = figure.subplots(len(FIGURES), len(kinds), squeeze=False, sharex=True, sharey="row")
    for row, (name, value) in zip(rows, FIGURES.items(), strict=True):
        row[0].set_ylabel(name)
        for axes, kind in zip(row, kinds, strict=True):
            for dim in _values(results, "dim"):
                cells = _by(_of(results, kind, dim=dim), "size")
                values = [[value(r) for r in cell] for cell in cells.values()]
                [line] = axes.plot(list(cells), [mean(v) for v in values], marker="o", label=f"{dim} dimensions")
                axes.fill_between(list(cells), [min(v) for v in values], [max(v) for v in values],
                                  color=line.get_color(), alpha=0.2)  # fmt: skip
            axes.set_xscale("log", base=2)
            if "perplexity" in name:
                axes.set_yscale("log", base=2)
    for axes, kind in zip(rows[0], kinds, strict=True):
        axes.set_title(KINDS[kind])
    for axes in rows[-1]:
        axes.set_xlabel("vectors in the codebook")
    rows[0][0].legend()
    save_plot(figure, path)


def plot_dead(results: Sequence[Result], path: Path) -> None:
    """Plots the share of dead codes of the largest codebook over the training, by dimension."""
    steps, shares = lambda r: [step for step, _ in r["dead"]], lambda r: [n / r["size"] for _, n in r["dead"]]
    _plot_largest(results, path, "step", "share of codes that are dead", shares, steps)


def plot_spectrum(results: Sequence[Result], path: Path) -> None:
    """Plots how much of the variance of the used vectors of the largest codebook its first components hold."""
    count, total = lambda r: range(1, len(r["spectrum"]) + 1), lambda r: list(accumulate(r["spectrum"]))
    _plot_largest(results, path, "principal components", "share of the variance", total, count)


def _plot_largest(
    results: Sequence[Result],
    path: Path,
    x_label: str,
    y_label: str,
    y: Callable[[Result], Sequence[float]],
    x: Callable[[Result], Sequence[float]],
) -> None:
    """Plots a curve of each dimension, the mean of its seeds, for the largest codebook."""
    kinds, size = _kinds(results), max(_values(results, "size"))
    figure = figure_class()(figsize=(5 * len(kinds), 3.5), layout="constrained")
    [row] = figure.subplots(1, len(kinds), squeeze=False, sharey=True)
    for axes, kind in zip(row, kinds, strict=True):
        for dim in _values(results, "dim"):
            if cell := _of(results, kind, dim=dim, size=size):
                curves = [y(r) for r in cell]
                points = [mean(values) for values in zip(*curves, strict=False)]
                axes.plot(list(x(cell[0]))[: len(points)], points, label=f"{dim} dimensions")
        axes.set(title=f"{KINDS[kind]}, {size} vectors", xlabel=x_label, ylim=(0, 1.02))
    row[0].set_ylabel(y_label)
    row[0].legend()
    save_plot(figure, path)


def table(results: Sequence[Result]) -> str:
    """Returns a Markdown table with a row for each codebook: means of the seeds, with half the range after ±."""
    names = {
        "used": "used",
        "perplexity": "perplexity",
        "psnr": "PSNR",
        "ssim": "SSIM",
        "rank": "effective rank",
        "rank_start": "at the start",
        "rank_features": "of features",
        "turned": "turned by",
    }
    head = ["data", "l2 norm", "vectors", "dimensions", *names.values()]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for kind in _kinds(results):
        for size, of_size in _by(_of(results, kind), "size").items():
            for dim, cell in _by(of_size, "dim").items():
                cells = [
                    kind[0],
                    "yes" if kind[1] else "no",
                    size,
                    dim,
                    *(_spread([r[n] for r in cell]) for n in names),
                ]
                lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    middle, half = mean(values), (max(values) - min(values)) / 2
    digits = 0 if middle >= 100 else 1 if middle >= 2 else 3
    return f"{middle:.{digits}f} ± {half:.{digits}f}"


def _kinds(results: Sequence[Result]) -> list[tuple[str, bool]]:
    return [kind for kind in KINDS if _of(results, kind)]


def _of(results: Sequence[Result], kind: tuple[str, bool], **wanted: int) -> list[Result]:
    """Results of one kind of run, those with the wanted values."""
    return [r for r in results if (r["data"], r["l2_norm"]) == kind and all(r[name] == v for name, v in wanted.items())]


def _values(results: Sequence[Result], name: str) -> list[int]:
    return sorted({r[name] for r in results})


def _by(results: Sequence[Result], name: str) -> dict[int, list[Result]]:
    """Groups results by one of their values, in its order."""
    return {value: [r for r in results if r[name] == value] for value in _values(results, name)}
