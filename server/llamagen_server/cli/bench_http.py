"""``llamagen bench serve``: a load test of a running server. Flags are named as in ``vllm bench serve``."""

from __future__ import annotations

import argparse
import logging
import math
from pathlib import Path
from typing import Any

from llamagen_server.bench.http import measure_server
from llamagen_server.bench.load import Kind, Load, LoadOptions
from llamagen_server.bench.outcomes import METRICS
from llamagen_server.bench.plot import plot
from llamagen_server.bench.tables import load_table
from llamagen_server.cli.bench_result import save_result
from llamagen_server.image_files.figure import figure_class

logger = logging.getLogger(__name__)

EXAMPLE = """example:
  llamagen bench serve --max-concurrency 1 8 32 --num-prompts 160 --prompts captions.txt"""

_DEFAULT = LoadOptions()
_LOAD = _DEFAULT.loads[0]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_server(parser)
    _add_load(parser)
    _add_requests(parser)
    _add_report(parser)


def add_server(parser: argparse.ArgumentParser) -> None:
    """Adds the flags about the server and the requests that every load test has."""
    add = parser.add_argument
    add("--base-url", default=_DEFAULT.base_url, help="address of the server (default: %(default)s)")
    add("--api-key", default=_DEFAULT.api_key, help="key that the requests carry (default: %(default)s)")
    add("--prompts", type=Path, metavar="FILE", help="one prompt per line, used in turn (text models)")
    add("--cfg-scale", type=float, help="guidance scale (default: the model's)")
    add(
        "--timeout",
        type=float,
        default=_DEFAULT.timeout,
        help="seconds after which an unanswered request has failed (default: %(default)g)",
    )
    add("--seed", type=int, default=_DEFAULT.seed, help="seed of images and arrivals (default: %(default)s)")
    add("--goodput", metavar="e2el:MS", help="count requests that take at most MS milliseconds")


def server_options(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the fields of `LoadOptions` that the flags of `add_server` set.

    Raises:
        ValueError: a flag has a wrong value.
    """
    return {
        "base_url": args.base_url,
        "api_key": args.api_key,
        "prompts": _read_prompts(args.prompts) if args.prompts else _DEFAULT.prompts,
        "cfg_scale": args.cfg_scale,
        "timeout": args.timeout,
        "seed": args.seed,
        "goodput_ms": goodput_ms(args.goodput) if args.goodput is not None else None,
    }


def run(args: argparse.Namespace) -> None:
    """Runs the loads one after the other and logs one table row for each.

    Raises:
        ValueError: an argument is wrong, matplotlib is missing, or the server does not answer.
    """
    if args.plot:
        figure_class()
    rows = measure_server(load_options(args))
    logger.info("%s\n%s", args.base_url, load_table(rows))
    save_result(args, {"rows": rows})
    if args.plot:
        plot(rows, args.plot)


def load_options(args: argparse.Namespace) -> LoadOptions:
    """Returns the options that the flags ask for.

    Raises:
        ValueError: a flag has a wrong value.
    """
    loads: list[dict[str, Any]] = [{"rate": rate} for rate in args.request_rate or ()]
    loads = loads or [{"concurrency": n} for n in args.max_concurrency or (1,)]
    limits = {"burstiness": args.burstiness, "num_prompts": args.num_prompts, "duration": args.duration}
    return LoadOptions(
        loads=tuple(Load(**load, **limits) for load in loads),
        num_warmups=args.num_warmups,
        mix=(Kind(n=args.n, partial_images=args.partial_images),),
        metrics=tuple(args.percentile_metrics.split(",")),
        percentiles=_percentiles(args.metric_percentiles),
        **server_options(args),
    )


def _add_load(parser: argparse.ArgumentParser) -> None:
    load = parser.add_mutually_exclusive_group()
    load.add_argument(
        "--max-concurrency",
        type=int,
        nargs="+",
        metavar="N",
        help="closed loop: N requests at a time; several values are run in turn (default: 1)",
    )
    load.add_argument(
        "--request-rate",
        type=float,
        nargs="+",
        metavar="R",
        help="open loop: R requests per second; several values are run in turn",
    )
    parser.add_argument(
        "--burstiness",
        type=float,
        default=_LOAD.burstiness,
        help="1: Poisson arrivals; smaller: more bursty (default: %(default)g)",
    )


def _add_requests(parser: argparse.ArgumentParser) -> None:
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--num-prompts", type=int, default=_LOAD.num_prompts, help="requests per load (default: %(default)s)"
    )
    length.add_argument("--duration", type=float, metavar="S", help="send requests for S seconds per load")
    add = parser.add_argument
    kind = _DEFAULT.mix[0]
    add(
        "--num-warmups", type=int, default=_DEFAULT.num_warmups, help="warm-up requests per load (default: %(default)s)"
    )
    add("--n", type=int, default=kind.n, help="images per request (default: %(default)s)")
    add(
        "--partial-images",
        type=int,
        default=kind.partial_images,
        help="stream each image with this many previews (default: no streaming)",
    )


def _add_report(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--percentile-metrics",
        default=",".join(_DEFAULT.metrics),
        help=f"some of {', '.join(METRICS)}: end-to-end latency, time to first preview, stages (default: %(default)s)",
    )
    add(
        "--metric-percentiles",
        default=",".join(f"{p:g}" for p in _DEFAULT.percentiles),
        help="percentiles to report (default: %(default)s)",
    )
    add("--save-result", type=Path, metavar="F.json", help="write the figures as JSON")
    add("--plot", type=Path, metavar="F.png", help="plot latency over throughput (needs matplotlib)")


def _read_prompts(path: Path) -> tuple[str, ...]:
    return tuple(line for line in path.read_text().splitlines() if line.strip())


def goodput_ms(text: str) -> float:
    """Returns the milliseconds of a value of ``--goodput``.

    Raises:
        ValueError: the value is wrong.
    """
    name, _, limit = text.partition(":")
    try:
        if name == "e2el" and 0 < float(limit) < math.inf:
            return float(limit)
    except ValueError:
        pass
    raise ValueError(f"--goodput is {text!r}, must be e2el and milliseconds, such as e2el:2000")


def _percentiles(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(p) for p in text.split(","))
    except ValueError:
        raise ValueError(f"--metric-percentiles is {text!r}, must be numbers such as 50,99") from None
