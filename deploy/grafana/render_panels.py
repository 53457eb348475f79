"""Renders the panels of a Grafana dashboard from the answers of a Prometheus server, without Grafana, to a PNG.

    python deploy/grafana/render_panels.py --prometheus http://127.0.0.1:9090 --minutes 10 -o docs/dashboard.png

Layout, queries, legends, units, colours and stacking are those of the dashboard's JSON. Needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "deploy/helm/llamagen-serve/files/dashboard.json"

GRID_WIDTH, GRID_HEIGHT = 0.8, 0.36
"""Inches of one unit of Grafana's grid, which is 24 units wide."""
COLORS = {
    "green": "#56a64b",
    "red": "#e02f44",
    "orange": "#ff780a",
    "yellow": "#e0b400",
    "purple": "#a352cc",
    "blue": "#3274d9",
}


@dataclass(frozen=True)
class Series:
    name: str
    times: list[float]
    """Seconds since the epoch."""
    values: list[float]


@dataclass(frozen=True)
class Window:
    """A range of time, in seconds since the epoch, and the seconds between two points."""

    start: float
    end: float
    step: float


def load_panels(dashboard: Path) -> list[dict[str, Any]]:
    """Returns the panels of a dashboard, headings of rows included, in the order of the file."""
    return json.loads(dashboard.read_text())["panels"]


def read_variables(client: httpx.Client, dashboard: Path, rate_interval: str) -> dict[str, str]:
    """Returns the value of each variable of a dashboard where "All" is chosen: a regular expression of all values.

    Raises:
        ValueError: a variable has no values.
    """
    values = {"__rate_interval": rate_interval}
    for variable in json.loads(dashboard.read_text())["templating"]["list"]:
        if variable["type"] == "query":
            series, label = variable["definition"].removeprefix("label_values(").removesuffix(")").rsplit(", ", 1)
            query = {"match[]": fill_in(series, values)}
            found = client.get(f"/api/v1/label/{label}/values", params=query).raise_for_status().json()["data"]
            if not found:
                raise ValueError(f"the variable {variable['name']} has no values: {variable['definition']}")
            values[variable["name"]] = "|".join(found)
    return values


def fill_in(expression: str, variables: dict[str, str]) -> str:
    """Replaces Grafana's ``$variables`` in a query."""
    return re.sub(r"\$(\w+)", lambda match: variables[match[1]], expression)


def legend(pattern: str, labels: dict[str, str]) -> str:
    """Fills the labels of a series into Grafana's ``{{label}}``."""
    return re.sub(r"{{\s*(\w+)\s*}}", lambda match: labels.get(match[1], ""), pattern)


def query_range(client: httpx.Client, panel: dict[str, Any], window: Window, variables: dict[str, str]) -> list[Series]:
    """Returns the series of a panel, in the order of its queries."""
    series = []
    for target in panel["targets"]:
        query = {"query": fill_in(target["expr"], variables), **vars(window)}
        reply = client.get("/api/v1/query_range", params=query).raise_for_status().json()
        for result in reply["data"]["result"]:
            times, values = zip(*((t, float(value)) for t, value in result["values"]))
            series.append(Series(legend(target["legendFormat"], result["metric"]), list(times), list(values)))
    return series


def readable(value: float, unit: str) -> str:
    """Returns a value with its unit, as Grafana writes it: 0.25 s as "250 ms", 0.1 (percentunit) as "10%"."""
    if unit == "percentunit":
        return f"{100 * value:.3g}%"
    if unit == "s":
        return f"{value * 1000:.3g} ms" if abs(value) < 1 else f"{value:.3g} s"
    if unit == "bytes":
        return f"{value / 2**20:.0f} MiB" if value < 2**30 else f"{value / 2**30:.3g} GiB"
    text = f"{value / 1000:.3g} K" if abs(value) >= 1000 else f"{value:.3g}"
    return text + (" req/s" if unit == "reqps" else "")


def render(dashboard: Path, prometheus: str, window: Window, rate_interval: str, output: Path) -> None:
    """Draws every panel at its place in the dashboard's grid."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = load_panels(dashboard)
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    pyplot.rcParams.update(
        {"font.family": "sans-serif", "font.size": 8, "axes.edgecolor": "#cccccc", "axes.axisbelow": True}
    )
    figure = pyplot.figure(figsize=(24 * GRID_WIDTH, rows * GRID_HEIGHT), facecolor="#f4f5f5")
    with httpx.Client(base_url=prometheus, timeout=30) as client:
        variables = read_variables(client, dashboard, rate_interval)
        for panel in panels:
            axes = place(figure, panel["gridPos"], rows)
            if panel["type"] == "row":
                axes.axis("off")
                axes.text(0, 0.45, panel["title"], fontsize=11, fontweight="bold", va="center")
                continue
            series = query_range(client, panel, window, variables)
            (draw_stat if panel["type"] == "stat" else draw_series)(axes, panel, series, window)
    figure.savefig(output, dpi=80)
    pyplot.close(figure)


def place(figure: Any, grid: dict[str, int], rows: int) -> Any:
    """Adds axes for a panel: a white card with room for title, legend and ticks."""
    from matplotlib.patches import Rectangle

    x, y, w, h = grid["x"] / 24, 1 - (grid["y"] + grid["h"]) / rows, grid["w"] / 24, grid["h"] / rows
    unit_x, unit_y = 1 / 24, 1 / rows
    if h == unit_y:
        return figure.add_axes((x + 0.12 * unit_x, y, w, h))
    gap = (0.06 * unit_x, 0.06 * unit_x * GRID_WIDTH * 24 / (GRID_HEIGHT * rows))
    card = Rectangle((x + gap[0], y + gap[1]), w - 2 * gap[0], h - 2 * gap[1], facecolor="white", edgecolor="#dddddd")
    card.set_transform(figure.transFigure)
    figure.add_artist(card).set_zorder(-1)
    if grid["h"] < 8:
        return figure.add_axes((x + gap[0], y + gap[1], w - 2 * gap[0], h - 1.1 * unit_y), facecolor="none")
    return figure.add_axes((x + 0.9 * unit_x, y + 2.0 * unit_y, w - 1.2 * unit_x, h - 3.3 * unit_y), facecolor="none")


def draw_stat(axes: Any, panel: dict[str, Any], series: Sequence[Series], window: Window) -> None:
    """Draws the last value of each series in large letters, above a sparkline if there is one series."""
    defaults = panel["fieldConfig"]["defaults"]
    axes.set_title(panel["title"], fontsize=8.5, loc="left", x=0.03, fontweight="bold")
    axes.axis("off")
    axes.set_xlim(window.start, window.end)
    for index, one in enumerate(series):
        value = next((v for v in reversed(one.values) if math.isfinite(v)), math.nan)
        text = readable(value, defaults["unit"]) if math.isfinite(value) else "No data"
        x, middle = (index + 0.5) / len(series), 0.5 if len(series) > 1 else 0.62
        color = COLORS[threshold_color(defaults["thresholds"]["steps"], value)]
        axes.text(x, middle, text, fontsize=21, color=color, ha="center", va="center", transform=axes.transAxes)
        if len(series) > 1:
            axes.text(x, 0.16, one.name, ha="center", color="#666666", transform=axes.transAxes)
        else:
            top = max((v for v in one.values if math.isfinite(v)), default=0) or 1
            axes.fill_between(one.times, one.values, color=color, alpha=0.2, linewidth=0)
            axes.set_ylim(0, 3.2 * top)


def threshold_color(steps: Sequence[dict[str, Any]], value: float) -> str:
    """Returns the colour of the highest step that the value reaches; the first one has no value."""
    return [step["color"] for step in steps if step["value"] is None or value >= step["value"]][-1]


def draw_series(axes: Any, panel: dict[str, Any], series: Sequence[Series], window: Window) -> None:
    """Draws lines, or stacked areas, over the minutes of the window."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator

    defaults = panel["fieldConfig"]["defaults"]
    axes.set_title(panel["title"], fontsize=9, loc="left", x=-0.02, fontweight="bold")
    colors = dict(zip((one.name for one in series), series_colors(panel, series)))
    if defaults["custom"]["stacking"]["mode"] == "normal":
        draw_stacked(axes, series, colors, window)
    else:
        for one in series:
            axes.plot(minutes(one.times, window), one.values, color=colors[one.name], linewidth=1.2, label=one.name)
            axes.fill_between(minutes(one.times, window), one.values, color=colors[one.name], alpha=0.08, linewidth=0)
    axes.set_xlim(0, (window.end - window.start) / 60)
    axes.set_ylim(0, max(axes.get_ylim()[1], 1e-9))
    if not any(v > 0 for one in series for v in one.values):
        axes.set_ylim(0, 1)
    powers = MultipleLocator(2 ** math.floor(math.log2(axes.get_ylim()[1] / 3)))
    axes.yaxis.set_major_locator(powers if defaults["unit"] == "bytes" else MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: readable(value, defaults["unit"])))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f} min"))
    axes.grid(color="#eeeeee")
    axes.tick_params(length=0, labelsize=7.5)
    axes.spines[["top", "right"]].set_visible(False)
    options = {"loc": "upper left", "bbox_to_anchor": (-0.03, -0.13), "frameon": False, "fontsize": 7.5}
    axes.legend(ncols=8, handlelength=1, columnspacing=1, handletextpad=0.4, **options)


def draw_stacked(axes: Any, series: Sequence[Series], colors: dict[str, str], window: Window) -> None:
    times = sorted({t for one in series for t in one.times})
    values = [[finite(dict(zip(one.times, one.values)).get(t, 0.0)) for t in times] for one in series]
    options = {"colors": list(colors.values()), "labels": list(colors), "alpha": 0.65, "linewidth": 0}
    axes.stackplot(minutes(times, window), values, **options)


def series_colors(panel: dict[str, Any], series: Sequence[Series]) -> Iterator[str]:
    """Yields the colour that the panel fixes for a series, else the next one of a palette."""
    fixed = {
        override["matcher"]["options"]: override["properties"][0]["value"]["fixedColor"]
        for override in panel["fieldConfig"]["overrides"]
    }
    palette = iter(["green", "yellow", "blue", "orange", "red", "purple"] * len(series))
    for one in series:
        yield COLORS[fixed.get(one.name) or next(palette)]


def minutes(times: Sequence[float], window: Window) -> list[float]:
    return [(t - window.start) / 60 for t in times]


def finite(value: float) -> float:
    """A mean without observations is NaN: nothing to stack."""
    return value if math.isfinite(value) else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description="Render the panels of a dashboard from Prometheus.")
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090", help="default: %(default)s")
    parser.add_argument("--dashboard", type=Path, default=DASHBOARD, help="default: the dashboard of the server")
    parser.add_argument("--minutes", type=float, default=60, help="range of time, up to now (default: %(default)s)")
    parser.add_argument("--rate-interval", default="1m", help="range of rates: 4 scrape intervals (default: 1m)")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="F.png")
    args = parser.parse_args()
    end = time.time()
    window = Window(end - 60 * args.minutes, end, max(1.0, args.minutes * 60 / 300))
    render(args.dashboard, args.prometheus, window, args.rate_interval, args.output)


if __name__ == "__main__":
    main()
