"""The plot of a scenario: latency, throughput, images in flight and memory over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llamagen_server.bench.outcomes import Outcome, percentile
from llamagen_server.bench.scenario_figures import REFUSED, images_between
from llamagen_server.bench.scenario_run import ScenarioResult
from llamagen_server.image_files.figure import figure_class

MAX_SLICES = 60
"""Most time slices in which percentiles and rates over time are computed."""
REQUESTS_PER_SLICE = 10
"""Requests that a slice should hold in the mean."""
OUTCOMES = {"ok": ("tab:blue", "."), "429": ("tab:orange", "x"), "failed": ("tab:red", "x")}
"""Colour and marker of a request by its outcome."""


def plot_scenario(result: ScenarioResult, path: Path) -> None:
    """Plots a scenario to an image file.

    Raises:
        ValueError: matplotlib is missing.
    """
    figure = figure_class()(figsize=(11, 8), layout="constrained")
    latency, throughput, server = figure.subplots(3, sharex=True, height_ratios=[3, 2, 2])
    plot = _Plot(result)
    plot.latency(latency)
    plot.throughput(throughput)
    plot.server(server)
    plot.phases([latency, throughput, server])
    figure.suptitle(f"{result.scenario.name}: saturation {result.saturation.images_per_s:.3g} images/s")
    server.set_xlabel("seconds")
    figure.savefig(path, dpi=100)


class _Plot:
    """Draws onto axes whose x is seconds since the start of the scenario."""

    def __init__(self, result: ScenarioResult) -> None:
        self.result = result
        self.start = result.phases[0].start
        self.end = max([phase.end for phase in result.phases] + [outcome.end for outcome in result.outcomes])
        self.slices = max(1, min(MAX_SLICES, len(result.outcomes) // REQUESTS_PER_SLICE))
        self.width = (self.end - self.start) / self.slices

    def latency(self, axes: Any) -> None:
        for name, (colour, marker) in OUTCOMES.items():
            own = [outcome for outcome in self.result.outcomes if _outcome_name(outcome) == name]
            if own:
                x, y = [o.start - self.start for o in own], [o.times["e2el"] / 1000 for o in own]
                axes.plot(x, y, marker, color=colour, markersize=4, alpha=0.35 if name == "ok" else 1, label=name)
        ok = [outcome for outcome in self.result.outcomes if not outcome.error]
        for p, style in ((50, "-"), (90, "--")):
            x, y = self._percentiles(ok, p)
            axes.plot(x, y, style, color="black", linewidth=1, label=f"p{p}")
        axes.axhline(self.result.goodput_ms / 1000, color="tab:green", linewidth=1, label="goal")
        axes.set(ylabel="latency, s", ylim=(0, None))
        axes.legend(loc="upper left", fontsize="small", ncols=6)

    def throughput(self, axes: Any) -> None:
        outcomes, kind = self.result.outcomes, self.result.requests.kind
        edges = [self.start + i * self.width for i in range(self.slices)]
        x = [edge - self.start + self.width / 2 for edge in edges]
        asked = [sum(kind(o.number).n for o in outcomes if e <= o.start < e + self.width) / self.width for e in edges]
        done = [images_between(outcomes, e, e + self.width) / self.width for e in edges]
        axes.step(x, asked, where="mid", color="grey", linewidth=1, label="offered")
        axes.step(x, done, where="mid", color="tab:blue", label="finished")
        axes.axhline(self.result.saturation.images_per_s, color="tab:red", linewidth=1, label="saturation")
        axes.set(ylabel="images/s", ylim=(0, None))
        axes.legend(loc="upper left", fontsize="small", ncols=3)

    def server(self, axes: Any) -> None:
        x = [at - self.start for at, _ in self.result.metrics]
        gauges = [samples for _, samples in self.result.metrics]
        axes.plot(x, [g["llamagen_images_in_flight", ""] for g in gauges], color="tab:blue")
        axes.set_ylabel("images in flight", color="tab:blue")
        axes.set_ylim(0, None)
        memory = axes.twinx()
        mebibytes = [g["process_resident_memory_bytes", ""] / 2**20 for g in gauges]
        memory.plot(x, mebibytes, color="tab:purple")
        memory.set_ylabel("server memory, MiB", color="tab:purple")
        memory.set_ylim(0, 1.25 * max(mebibytes, default=0) or 1)

    def phases(self, all_axes: Sequence[Any]) -> None:
        """Shades every other phase, and warm-ups darker; names them at the top."""
        for i, phase in enumerate(self.result.phases):
            start, end = phase.start - self.start, phase.end - self.start
            for axes in all_axes:
                axes.axvspan(
                    start, end, color="grey", alpha=0.3 if phase.phase.warm_up else 0.12 * (i % 2), linewidth=0
                )
                axes.grid(alpha=0.3)
            all_axes[0].annotate(
                phase.phase.name,
                ((start + end) / 2, 1.01),
                xycoords=("data", "axes fraction"),
                ha="center",
                fontsize="small",
            )

    def _percentiles(self, outcomes: Sequence[Outcome], p: float) -> tuple[list[float], list[float]]:
        """Returns the centre of each time slice in which requests were due, and a percentile of their latencies."""
        slices: dict[int, list[float]] = {}
        for outcome in outcomes:
            slices.setdefault(int((outcome.start - self.start) / self.width), []).append(outcome.times["e2el"] / 1000)
        return [(i + 0.5) * self.width for i in sorted(slices)], [percentile(slices[i], p) for i in sorted(slices)]


def _outcome_name(outcome: Outcome) -> str:
    if outcome.error is None:
        return "ok"
    return REFUSED if outcome.error_kind == REFUSED else "failed"
