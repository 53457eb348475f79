"""``llamagen bench scenario``: load tests with phases, described in files, each with a report."""

from __future__ import annotations

import argparse
import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

from llamagen_server.bench.http import load_client
from llamagen_server.bench.load import LoadOptions, check_positive
from llamagen_server.bench.scenario import Scenario, read_scenario
from llamagen_server.bench.scenario_plot import plot_scenario
from llamagen_server.bench.scenario_report import report
from llamagen_server.bench.scenario_run import ScenarioResult, measure_saturation, run_scenario
from llamagen_server.cli.bench_http import add_server, server_options
from llamagen_server.image_files.figure import figure_class

logger = logging.getLogger(__name__)

EXAMPLE = """example:
  llamagen bench scenario deploy/loadtest/*.yaml --base-url http://127.0.0.1:8000 --out reports"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("files", type=Path, nargs="+", metavar="FILE", help="scenarios in YAML, run one after the other")
    add_server(parser)
    add("--out", type=Path, required=True, metavar="DIR", help="reports go to DIR/NAME/report.md and report.png")
    add("--scale", type=float, default=1.0, help="multiplies the length of every phase (default: %(default)g)")
    add(
        "--capacity",
        default="auto",
        metavar="R",
        help="the server's saturation in images/s, which the scenarios' rates are shares of "
        "(default: measured with each scenario's mix)",
    )


def run(args: argparse.Namespace) -> None:
    """Runs the scenarios and writes their reports.

    Raises:
        ValueError: an argument or a file is wrong, matplotlib is missing, or the server does not answer.
    """
    check_positive("--scale", args.scale)
    scale, capacity = args.scale, _capacity(args.capacity)
    figure_class()
    for scenario in _read_scenarios(args.files):
        options = LoadOptions(mix=scenario.mix, **server_options(args))
        result = asyncio.run(_run(scenario.scaled(scale), options, scale, capacity))
        folder = args.out / scenario.name
        folder.mkdir(parents=True, exist_ok=True)
        text = report(result, args.base_url)
        (folder / "report.md").write_text(text)
        plot_scenario(result, folder / "report.png")
        logger.info("%s\n%s", folder / "report.md", text)


def _read_scenarios(files: Sequence[Path]) -> list[Scenario]:
    """Reads all files before the first scenario runs."""
    by_name: dict[str, Path] = {}
    for path in files:
        if (first := by_name.setdefault(path.stem, path)) is not path:
            raise ValueError(f"{first} and {path} would write the same report {path.stem}: run one, or rename it")
    return [read_scenario(path) for path in files]


async def _run(scenario: Scenario, options: LoadOptions, scale: float, capacity: float | None) -> ScenarioResult:
    async with load_client(options) as client:
        saturation = await measure_saturation(client, scale, capacity)
        return await run_scenario(client, scenario, saturation, options.goodput_ms)


def _capacity(text: str) -> float | None:
    if text == "auto":
        return None
    try:
        capacity = float(text)
        check_positive("--capacity", capacity)
        return capacity
    except ValueError:
        raise ValueError(f"--capacity is {text!r}, must be auto or a positive number of images per second") from None
