"""``llamagen bench engine``: speed of the engine alone."""

from __future__ import annotations

import argparse
import logging
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from llamagen_server.bench.engine import EngineResult, measure_engine
from llamagen_server.bench.engine_options import EngineOptions
from llamagen_server.bench.tables import engine_table, window_table
from llamagen_server.bench.window import WINDOWS, fastest_windows, measure_windows
from llamagen_server.cli.bench_result import save_result
from llamagen_server.engine.window_rule import window_ranges
from llamagen_server.pipeline.build import DEMO_MODEL
from vllm_llamagen.config import SIZES

logger = logging.getLogger(__name__)

EXAMPLE = """example:
  llamagen bench engine --size B --batch 1 8 --baseline eager"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    default = EngineOptions()
    add = parser.add_argument
    add("--size", choices=list(SIZES), default=default.size, help="network (default: %(default)s)")
    add(
        "--model",
        type=Path,
        nargs="?",
        const=DEMO_MODEL,
        metavar="MODEL",
        help="a model directory or the name of an official model, in place of a size with random weights; without a "
        "value the demo model",
    )
    add(
        "--image-size",
        type=int,
        default=default.image_size,
        help="side of the images in pixels, 16 per image token (default: %(default)s)",
    )
    add("--batch", type=int, nargs="+", default=list(default.batch), help="images at a time (default: 1 8)")
    add("--cfg-scale", type=float, default=default.cfg_scale, help="1 runs a single branch (default: %(default)s)")
    add(
        "--cfg-min-p",
        type=float,
        default=default.cfg_min_p,
        metavar="P",
        help="also time the engine with this cfg_min_p of all requests; the two alternate (default: 0, which does not)",
    )
    add("--top-k", type=int, default=default.top_k, help="0 keeps every code (default: %(default)s)")
    add(
        "--dtype",
        default=default.dtype,
        choices=["auto", "float32", "bfloat16", "float16"],
        help="dtype of the weights and of the computation (default: %(default)s)",
    )
    add("--enforce-eager", action="store_true", help="do not compile")
    add(
        "--repeat",
        type=int,
        default=default.repeat,
        help="runs per batch size; the median counts (default: %(default)s)",
    )
    add(
        "--baseline",
        choices=["eager"],
        help="also time eager PyTorch with the operations of the official code; the two alternate",
    )
    add(
        "--profile",
        action="store_true",
        help="also report how the time of a step of the largest batch is spent; the engine then runs in this process",
    )
    add(
        "--decode-window",
        type=int,
        default=default.decode_window,
        metavar="K",
        help="tokens guessed ahead in a step, for vLLM's V2 model runner (default: %(default)s)",
    )
    add(
        "--calibrate-window",
        action="store_true",
        help="time each batch size with several decode windows, and print the --decode-window-rule of the fastest",
    )
    add("--save-result", type=Path, metavar="F.json", help="write the figures as JSON")


def run(args: argparse.Namespace) -> None:
    """Measures and logs one table row per batch size.

    Raises:
        ValueError: an argument is wrong.
    """
    flags = {field.name: getattr(args, field.name) for field in fields(EngineOptions)}
    options = EngineOptions(**flags | {"batch": tuple(args.batch)})
    if args.calibrate_window:
        _calibrate(args, options)
        return
    result = measure_engine(options)
    _log(options, result)
    figures: dict[str, Any] = {
        "dtype": str(result.dtype).removeprefix("torch."),
        "v2_model_runner": result.v2_model_runner,
        "machine": asdict(result.machine),
        "rows": result.rows,
    }
    if result.profile:
        figures["profile"] = result.profile
    save_result(args, figures, **({"size": None, "image_size": None} if args.model else {}))


def _calibrate(args: argparse.Namespace, options: EngineOptions) -> None:
    result, rows = measure_windows(options)
    rule = fastest_windows(rows)
    logger.info(
        "images/s, %s, %d codes, cfg_scale %g\n%s",
        result.dtype,
        result.num_image_tokens,
        options.cfg_scale,
        window_table(rows),
    )
    largest = max(window for _, _, window in window_ranges(rule, max(WINDOWS), 1) or ())
    logger.info("the fastest: --decode-window %d --decode-window-rule %s", largest, rule)
    save_result(args, {"rows": rows, "rule": rule}, size=None, image_size=None)


def _log(options: EngineOptions, result: EngineResult) -> None:
    logger.info(
        "%s, %d codes, cfg_scale %g, top_k %d, %s; copy %.1f GB/s, matmul %.0f GFLOP/s\n%s",
        options.model.name if options.model else f"GPT-{options.size}",
        result.num_image_tokens,
        options.cfg_scale,
        options.top_k,
        result.dtype,
        result.machine.bytes_per_s / 1e9,
        result.machine.flops_per_s / 1e9,
        engine_table(result.rows),
    )
    if result.profile:
        parts = ", ".join(f"{part} {milliseconds:.2f}" for part, milliseconds in result.profile.items())
        logger.info("a step of batch %d, ms: %s", max(options.batch), parts)
