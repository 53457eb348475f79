"""``llamagen bench engine``: how fast vLLM decodes the codes of an official size, with random weights."""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_llamagen.config import SIZES, LlamaGenConfig

if TYPE_CHECKING:
    from vllm import LLM

logger = logging.getLogger(__name__)

DOWNSAMPLE = 16
_COLUMNS = {"engine_s": 2, "images_per_s": 3, "tokens_per_s": 1, "step_ms": 1}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", choices=list(SIZES), default="B", help="network (default: %(default)s)")
    parser.add_argument("--image-size", type=int, default=256, help="pixels, 16 per code (default: %(default)s)")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8], help="pictures at a time (default: 1 8)")
    parser.add_argument("--cfg-scale", type=float, default=4.0, help="1 runs a single stream (default: %(default)s)")
    parser.add_argument("--top-k", type=int, default=2000, help="default: %(default)s")
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16", "float16"])
    parser.add_argument("--enforce-eager", action="store_true", help="do not compile")
    parser.add_argument("--repeat", type=int, default=3, help="runs per batch size; the median counts (default: 3)")
    parser.add_argument("--save-result", type=Path, metavar="F.json", help="write the figures as JSON")


def run(args: argparse.Namespace) -> None:
    """Prints one row per batch size.

    Raises:
        ValueError: an argument is wrong.
    """
    if min(args.batch) < 1 or args.repeat < 1:
        raise ValueError(f"--batch {min(args.batch)} and --repeat {args.repeat} must be at least 1")
    if args.image_size < DOWNSAMPLE or args.image_size % DOWNSAMPLE:
        raise ValueError(f"--image-size is {args.image_size}, must be a multiple of {DOWNSAMPLE}")
    size = SIZES[args.size]
    config = LlamaGenConfig(
        architectures=["LlamaGenForCausalLM"],
        **size._asdict(),
        n_kv_head=size.n_head,
        ffn_hidden_dim=size.ffn_hidden_dim,
        grid_size=args.image_size // DOWNSAMPLE,
        guidance_streams=1 if args.cfg_scale == 1 else 2,
        dtype="float32",
    )
    llm = _start(config, args)
    rows = [_measure(llm, config, args, batch) for batch in args.batch]
    header = "| batch | seconds | images/s | tokens/s | ms per step |"
    lines = [header, "|---|---|---|---|---|"] + [_line(row) for row in rows]
    logger.info("GPT-%s, %d px, cfg_scale %g\n%s", args.size, args.image_size, args.cfg_scale, "\n".join(lines))
    if args.save_result:
        settings = {k: v for k, v in vars(args).items() if k not in ("save_result", "command")}
        args.save_result.write_text(json.dumps({"settings": settings, "rows": rows}, indent=2) + "\n")


def _line(row: dict[str, Any]) -> str:
    figures = (f"{row[name]:.{digits}f}" for name, digits in _COLUMNS.items())
    return f"| {row['batch']} | {' | '.join(figures)} |"


def _start(config: LlamaGenConfig, args: argparse.Namespace) -> LLM:
    from llamagen_server import vllm_args

    with tempfile.TemporaryDirectory() as directory:
        config.save_pretrained(directory)
        flags = vllm_args.default_flags(
            load_format="dummy",
            dtype=args.dtype,
            enforce_eager=args.enforce_eager,
            max_num_seqs=max(args.batch),
            disable_log_stats=True,
        )
        return vllm_args.start_offline_engine(vllm_args.engine_args(flags, directory, config))


def _measure(llm: LLM, config: LlamaGenConfig, args: argparse.Namespace, batch: int) -> dict[str, Any]:
    from vllm import SamplingParams

    prompts = [{"prompt_token_ids": [config.codebook_size + i % config.num_classes]} for i in range(batch)]
    tokens = config.num_image_tokens
    params = [
        SamplingParams(
            temperature=1.0,
            top_k=args.top_k,
            seed=i,
            max_tokens=tokens,
            ignore_eos=True,
            detokenize=False,
            extra_args={"cfg_scale": args.cfg_scale},
        )
        for i in range(batch)
    ]

    def seconds() -> float:
        start = time.perf_counter()
        llm.generate(prompts, params, use_tqdm=False)
        return time.perf_counter() - start

    seconds()  # warm up
    engine_s = statistics.median(seconds() for _ in range(args.repeat))
    return {
        "batch": batch,
        "engine_s": engine_s,
        "images_per_s": batch / engine_s,
        "tokens_per_s": batch * tokens / engine_s,
        "step_ms": engine_s / tokens * 1000,
    }
