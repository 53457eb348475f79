"""``llamagen bench engine``: how fast vLLM decodes the codes of an official size, with random weights."""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import logging
import os
import pstats
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from llamagen_server.bench import roofline as floor
from llamagen_server.bench.eager import EagerGPT
from llamagen_server.model_dir import ModelDir
from llamagen_server.pipeline import build as loading
from vllm_llamagen.config import SIZES, LlamaGenConfig

if TYPE_CHECKING:
    from vllm import LLM

logger = logging.getLogger(__name__)

DOWNSAMPLE = 16
_COLUMNS = {
    "engine_s": ("seconds", 2),
    "images_per_s": ("images/s", 3),
    "tokens_per_s": ("tokens/s", 1),
    "step_ms": ("ms per step", 1),
    "floor_s": ("floor, s", 2),
    "floor_multiple": ("times floor", 2),
    "eager_s": ("eager, s", 2),
    "ratio": ("times as fast as eager", 2),
}
"""Of the table: heading and digits. Those of the baseline are there if it ran."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", choices=list(SIZES), default="B", help="network (default: %(default)s)")
    parser.add_argument(
        "--model",
        type=Path,
        nargs="?",
        const=loading.DEMO_MODEL,
        metavar="MODEL",
        help="a model directory in place of a size with random weights; without a value the demo",
    )
    parser.add_argument("--image-size", type=int, default=256, help="pixels, 16 per code (default: %(default)s)")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8], help="pictures at a time (default: 1 8)")
    parser.add_argument("--cfg-scale", type=float, default=4.0, help="1 runs a single stream (default: %(default)s)")
    parser.add_argument("--top-k", type=int, default=2000, help="default: %(default)s")
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16", "float16"])
    parser.add_argument("--enforce-eager", action="store_true", help="do not compile")
    parser.add_argument("--repeat", type=int, default=3, help="runs per batch size; the median counts (default: 3)")
    parser.add_argument(
        "--baseline", choices=["eager"], help="also run plain PyTorch as the official code does, by turns"
    )
    parser.add_argument(
        "--profile",
        action="store_true",
        help="also tell what a step of the largest batch spends its time on; the engine then runs in this process",
    )
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
    if args.profile and loading.stage_device().type == "cuda" and not args.enforce_eager:
        raise ValueError("--profile needs --enforce-eager on a GPU: a CUDA graph cannot be told apart")
    if args.model and args.baseline:
        raise ValueError("--baseline runs the sizes by name, not --model")
    if args.profile:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the profiler sees this process only
    streams = 1 if args.cfg_scale == 1 else 2
    model = loading.open_model(args.model, streams) if args.model else None
    config = model.config if model else _config(args, streams)
    llm = _start(config, args)
    prompts = _prompts(model, config, max(args.batch))
    dtype = llm.llm_engine.model_config.dtype
    machine = floor.measure(loading.stage_device().type, dtype)
    rows = [_measure(llm, config, args, prompts[:batch], machine) for batch in args.batch]
    logger.info(
        "%s, %d codes, cfg_scale %g, top_k %d, %s; copy %.1f GB/s, matmul %.0f GFLOP/s\n%s",
        args.model.name if args.model else f"GPT-{args.size}",
        config.num_image_tokens,
        args.cfg_scale,
        args.top_k,
        dtype,
        machine.bytes_per_s / 1e9,
        machine.flops_per_s / 1e9,
        table(rows),
    )
    result: dict[str, Any] = {"rows": rows}
    if args.profile:
        result["profile"] = profile = step_profile(_engine(llm, config, args, prompts), config.num_image_tokens)
        logger.info("a step of batch %d, ms: %s", len(prompts), ", ".join(f"{k} {v:.2f}" for k, v in profile.items()))
    if args.save_result:
        settings = {k: v for k, v in vars(args).items() if k not in ("save_result", "command", "bench")}
        settings |= {"model": str(args.model), "size": None, "image_size": None} if args.model else {}
        args.save_result.write_text(json.dumps({"settings": settings, **result}, indent=2) + "\n")


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a markdown table."""
    columns = {name: column for name, column in _COLUMNS.items() if name in rows[0]}
    lines = ["| batch | " + " | ".join(heading for heading, _ in columns.values()) + " |"]
    lines.append("|---" * (1 + len(columns)) + "|")
    for row in rows:
        figures = [f"{row[name]:.{digits}f}" for name, (_, digits) in columns.items()]
        lines.append(f"| {row['batch']} | {' | '.join(figures)} |")
    return "\n".join(lines)


_PARTS = {
    "scheduling": (("sched/scheduler.py", "schedule"),),
    "model": (("vllm_llamagen/model.py", "forward"),),
    "logits": (("vllm_llamagen/model.py", "compute_logits"),),
    "guidance": (("vllm_llamagen/runner_v1.py", "apply"),),
    "sampling": (("sample/sampler.py", "sample"),),
    "output": (("sched/scheduler.py", "update_from_output"), ("engine/output_processor.py", "process_outputs")),
}
"""Of a step: the functions, by file and name, whose time it is. Of several that match the outermost one counts."""


def step_profile(once: Callable[[], object], steps: int) -> dict[str, float]:
    """Milliseconds of a step by part; ``once`` runs so many. On a GPU that is the time to launch a part's kernels."""
    profiler = cProfile.Profile()
    profiler.runcall(once)
    # {(file, line, function): (primitive calls, calls, own seconds, seconds, callers)}
    stats: dict[tuple[str, int, str], tuple[int, int, float, float, Any]] = vars(pstats.Stats(profiler))["stats"]

    def seconds(file: str, function: str) -> float:
        return max((s[3] for (f, _, name), s in stats.items() if f.endswith(file) and name == function), default=0.0)

    parts = {part: sum(seconds(*function) for function in functions) for part, functions in _PARTS.items()}
    parts["rest"] = max(s[3] for s in stats.values()) - sum(parts.values())
    return {part: total / steps * 1000 for part, total in parts.items()}


def _config(args: argparse.Namespace, streams: int) -> LlamaGenConfig:
    size = SIZES[args.size]
    return LlamaGenConfig(
        architectures=["LlamaGenForCausalLM"],
        **size._asdict(),
        n_kv_head=size.n_head,
        ffn_hidden_dim=size.ffn_hidden_dim,
        grid_size=args.image_size // DOWNSAMPLE,
        guidance_streams=streams,
        dtype="float32",
    )


def _prompts(model: ModelDir | None, config: LlamaGenConfig, count: int) -> list[Any]:
    """Classes by turns; a text model gets one caption."""
    if model is None or config.condition == "class":
        return [{"prompt_token_ids": [config.codebook_size + i % config.num_classes]} for i in range(count)]
    stage = loading.text_stage(model, loading.stage_device())
    return [{"prompt_embeds": asyncio.run(stage("a large red circle on a white background"))}] * count


def _start(config: LlamaGenConfig, args: argparse.Namespace) -> LLM:
    from llamagen_server.engine import arguments as vllm_args

    with tempfile.TemporaryDirectory() as directory:
        config.save_pretrained(directory)
        flags = vllm_args.default_flags(
            load_format="auto" if args.model else "dummy",
            dtype=args.dtype,
            enforce_eager=args.enforce_eager,
            max_num_seqs=max(args.batch),
            disable_log_stats=True,
        )
        if loading.stage_device().type == "cuda":
            # Not all that is free, for the baseline needs room too. vLLM's blocks have 16 tokens there.
            flags.kv_cache_memory_bytes = (max(args.batch) + 1) * vllm_args.kv_cache_bytes(config, args.dtype, 16)
        return vllm_args.start_offline_engine(vllm_args.engine_args(flags, str(args.model or directory), config))


def _measure(
    llm: LLM, config: LlamaGenConfig, args: argparse.Namespace, prompts: list[Any], machine: floor.Machine
) -> dict[str, Any]:
    dtype, batch = llm.llm_engine.model_config.dtype, len(prompts)
    work = {"engine_s": _engine(llm, config, args, prompts)}
    if args.baseline:
        work["eager_s"] = _eager(config, args, batch, dtype)
    times: dict[str, list[float]] = {name: [] for name in work}
    for round_ in range(args.repeat + 1):  # by turns, so that a busy moment of the machine hits both
        for name, once in work.items():
            start = time.perf_counter()
            once()
            if round_:  # the first warms up
                times[name].append(time.perf_counter() - start)
    row: dict[str, Any] = {name: statistics.median(seconds) for name, seconds in times.items()}
    engine_s, tokens = row["engine_s"], config.num_image_tokens
    row |= {"batch": batch, "images_per_s": batch / engine_s, "tokens_per_s": batch * tokens / engine_s}
    row |= {"step_ms": engine_s / tokens * 1000, "floor_s": floor.floor_seconds(config, batch, dtype.itemsize, machine)}
    row["floor_multiple"] = engine_s / row["floor_s"]
    if args.baseline:
        row["ratio"] = row["eager_s"] / engine_s
    return row


def _engine(llm: LLM, config: LlamaGenConfig, args: argparse.Namespace, prompts: list[Any]) -> Callable[[], object]:
    from vllm import SamplingParams

    params = [
        SamplingParams(
            temperature=1.0,
            top_k=args.top_k,
            seed=i,
            max_tokens=config.num_image_tokens,
            ignore_eos=True,
            detokenize=False,
            extra_args={"cfg_scale": args.cfg_scale},
        )
        for i in range(len(prompts))
    ]
    return lambda: llm.generate(prompts, params, use_tqdm=False)


def _eager(config: LlamaGenConfig, args: argparse.Namespace, batch: int, dtype: torch.dtype) -> Callable[[], object]:
    with torch.device(loading.stage_device().type):
        model = EagerGPT(config, batch, dtype).requires_grad_(False)
        classes = torch.arange(batch) % config.num_classes

    def once() -> None:
        model.generate(classes, args.cfg_scale, args.top_k)
        if classes.is_cuda:
            torch.cuda.synchronize()

    return once
