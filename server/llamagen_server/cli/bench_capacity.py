"""``llamagen bench capacity``: the devices that a target rate needs."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path

from llamagen_server.bench.capacity import Goal, Source, latency_rows, plan_row, read_result
from llamagen_server.bench.devices import CAUTIOUS, DEVICES, ROOFLINE, estimate
from llamagen_server.bench.engine import random_config
from llamagen_server.bench.engine_options import EngineOptions
from llamagen_server.bench.load import check_positive
from llamagen_server.bench.tables import load_table
from llamagen_server.cli.bench_http import goodput_ms
from vllm_llamagen.config import SIZES

logger = logging.getLogger(__name__)

EXAMPLE = """example:
  llamagen bench capacity --result serve.json --target-rate 100 1000
  llamagen bench capacity --size B XL 3B --device h100 --target-rate 10 100 1000 10000"""


_GOAL = Goal()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--result",
        type=Path,
        nargs="+",
        default=[],
        metavar="F.json",
        help="measured rates: files that --save-result of `bench serve --max-concurrency` or `bench engine` wrote",
    )
    add("--size", choices=list(SIZES), nargs="+", default=[], help="networks to estimate, see --device")
    add(
        "--device",
        choices=list(DEVICES),
        nargs="+",
        default=["h100"],
        help="devices of which rates are estimated from their data sheets (default: h100)",
    )
    add("--image-size", type=int, default=384, help="side of the images in pixels (default: %(default)s)")
    add("--max-num-seqs", type=int, default=256, help="largest batch of a server (default: %(default)s)")
    add("--target-rate", type=float, nargs="+", default=[10, 100, 1000, 10000], metavar="R", help="images per second")
    add(
        "--max-utilisation",
        type=float,
        default=_GOAL.utilisation,
        help="largest share of saturation to plan with (default: %(default)g)",
    )
    add(
        "--latency-goal",
        type=float,
        default=_GOAL.latency,
        help="limit of the p99 in multiples of the latency of an image alone (default: %(default)g)",
    )
    add("--goodput", metavar="e2el:MS", help="limit of the p99 in milliseconds, in place of --latency-goal")
    add("--latency", action="store_true", help="also show latency by utilisation, by the model and by a simulation")


def run(args: argparse.Namespace) -> None:
    """Logs one row per result file, and per network and device.

    Raises:
        ValueError: an argument is wrong, or a file is not a result.
    """
    for flag in ("max_num_seqs", "latency_goal", "max_utilisation"):
        check_positive(f"--{flag.replace('_', '-')}", getattr(args, flag))
    for rate in args.target_rate:
        check_positive("--target-rate", rate)
    if not args.max_utilisation < 1:
        raise ValueError(f"--max-utilisation is {args.max_utilisation:g}, must be below 1")
    limit_s = goodput_ms(args.goodput) / 1000 if args.goodput is not None else None
    goal = Goal(args.latency_goal, limit_s, args.max_utilisation)
    sources = [*(read_result(path, args.max_num_seqs) for path in args.result), *_estimates(args)]
    if not sources:
        raise ValueError("nothing to plan with: give --result (measured) or --size (estimated)")
    rows = [plan_row(source, args.target_rate, goal) for source in sources]
    logger.info("devices within the goal\n%s", load_table(rows))
    for source in sources if args.latency else ():
        logger.info("%s\n%s", source.name, load_table(latency_rows(source.curve)))


def _estimates(args: argparse.Namespace) -> Iterator[Source]:
    for size in args.size:
        config = random_config(EngineOptions(size=size, image_size=args.image_size))
        for device in args.device:
            curve, bound = (
                estimate(config, DEVICES[device], assumptions, args.max_num_seqs)
                for assumptions in (CAUTIOUS, ROOFLINE)
            )
            yield Source(f"{size} on {device} (estimate)", curve, bound.saturation)
