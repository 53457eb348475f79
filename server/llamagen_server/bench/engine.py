"""Speed of the engine alone: vLLM samples the codes of a batch of images, without text encoder and image tokenizer."""

from __future__ import annotations

import asyncio
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from llamagen_server.bench.eager import EagerGPT
from llamagen_server.bench.engine_options import DOWNSAMPLE, EngineOptions
from llamagen_server.bench.roofline import Machine, measure_machine, roofline_seconds
from llamagen_server.bench.step_profile import profile_step
from llamagen_server.engine.arguments import GPU_BLOCK_SIZE, default_flags, kv_cache_bytes, plan_engine
from llamagen_server.engine.vllm_engine import start_offline_engine
from llamagen_server.model_dir import ModelDir
from llamagen_server.pipeline.build import open_model, stage_device, text_stage
from vllm_llamagen.config import SIZES, LlamaGenConfig

if TYPE_CHECKING:
    from vllm import LLM

logger = logging.getLogger(__name__)

CAPTION = "a large red circle on a white background"

Work = Callable[[], object]
Row = dict[str, Any]
"""Figures of one batch size by name, see `figures`."""


@dataclass(frozen=True)
class EngineResult:
    """Figures of all batch sizes, and the conditions under which they were measured."""

    num_image_tokens: int
    dtype: torch.dtype
    v2_model_runner: bool
    """Whether vLLM's V2 model runner ran the model."""
    machine: Machine
    rows: list[Row]
    profile: dict[str, float] | None
    """Milliseconds of a step of the largest batch, by part; None if not asked for."""


def measure_engine(options: EngineOptions) -> EngineResult:
    """Starts the engine and times it at each batch size.

    Raises:
        ValueError: the model directory cannot be served, or a profile of CUDA graphs is asked for.
    """
    if options.profile and stage_device().type == "cuda" and not options.enforce_eager:
        raise ValueError("--profile needs --enforce-eager on a GPU: the parts of a CUDA graph cannot be timed")
    model = open_model(options.model, options.cfg_branches) if options.model else None
    options = replace(options, model=model.path) if model else options
    config = model.config if model else random_config(options)
    llm = _start(options, config)
    dtype = llm.llm_engine.model_config.dtype
    prompts = _prompts(model, config, max(options.batch))
    machine = measure_machine(stage_device().type, dtype)
    run = _Run(options, config, llm, prompts, dtype, machine)
    rows = [run.measure(batch) for batch in options.batch]
    profile = profile_step(run.engine(len(prompts)), config.num_image_tokens) if options.profile else None
    v2_model_runner = bool(llm.llm_engine.vllm_config.use_v2_model_runner)
    llm.llm_engine.engine_core.shutdown()
    return EngineResult(config.num_image_tokens, dtype, v2_model_runner, machine, rows, profile)


def figures(batch: int, tokens: int, seconds: Mapping[str, float | None], roofline_s: float) -> Row:
    """Returns the figures of one batch.

    Args:
        batch: images in the batch.
        tokens: image tokens of one image, which is also the number of decode steps.
        seconds: time of the batch, as ``engine_s``, ``min_p_s`` if it was also timed with ``cfg_min_p``, and
            ``eager_s`` if there is a baseline: None if it ran out of memory.
        roofline_s: shortest possible time, see `roofline_seconds`.
    """
    engine_s = seconds["engine_s"]
    assert engine_s is not None
    row: Row = {
        **seconds,
        "batch": batch,
        "images_per_s": batch / engine_s,
        "tokens_per_s": batch * tokens / engine_s,
        "step_ms": engine_s / tokens * 1000,
        "roofline_s": roofline_s,
        "roofline_fraction": roofline_s / engine_s,
    }
    if (min_p_s := seconds.get("min_p_s")) is not None:
        row["min_p_cost_percent"] = 100 * (min_p_s / engine_s - 1)
    if "eager_s" in seconds:
        row["ratio"] = seconds["eager_s"] / engine_s if seconds["eager_s"] is not None else None
    return row


def median_seconds(work: Mapping[str, Work], repeat: int) -> dict[str, float]:
    """Returns the median time of each piece of work. They take turns, so that a busy moment of the machine hits all."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for round_ in range(repeat + 1):
        for name, once in work.items():
            start = time.perf_counter()
            once()
            if round_ > 0:  # the first round warms up
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


class Guesses(NamedTuple):
    """Counts of a decode window since the engine has started."""

    steps: int
    """Steps with guesses, of each image."""
    right: int


def count_guesses(llm: LLM) -> Guesses:
    """Reads vLLM's metrics. The engine must have a decode window, and keep statistics."""
    counts = {metric.name: metric.value for metric in llm.get_metrics() if hasattr(metric, "value")}
    return Guesses(*(int(counts[f"vllm:spec_decode_num_{name}"]) for name in ("drafts", "accepted_tokens")))


def tokens_per_step(before: Guesses, after: Guesses) -> float:
    """Returns the tokens that a step brought an image, on average."""
    return 1 + (after.right - before.right) / max(1, after.steps - before.steps)


@dataclass(frozen=True)
class _Run:
    """A running engine and everything that its measurements share."""

    options: EngineOptions
    config: LlamaGenConfig
    llm: LLM
    prompts: list[Any]
    dtype: torch.dtype
    machine: Machine

    def measure(self, batch: int) -> Row:
        before = count_guesses(self.llm) if self.options.decode_window else None
        seconds = self.seconds(batch)
        roofline_s = roofline_seconds(self.config, batch, self.dtype.itemsize, self.machine)
        row = figures(batch, self.config.num_image_tokens, seconds, roofline_s)
        if before:
            row["tokens_per_step"] = tokens_per_step(before, count_guesses(self.llm))
        return row

    def seconds(self, batch: int) -> Mapping[str, float | None]:
        """Returns the times of a batch as `figures` takes them."""
        work = {"engine_s": self.engine(batch)}
        if self.options.cfg_min_p:
            work["min_p_s"] = self.engine(batch, self.options.cfg_min_p)
        if not self.options.baseline:
            return median_seconds(work, self.options.repeat)
        try:
            return median_seconds({**work, "eager_s": self.baseline(batch)}, self.options.repeat)
        except torch.OutOfMemoryError as error:
            logger.warning("batch %d: the baseline ran out of memory: %s", batch, error)
        torch.cuda.empty_cache()  # not before the exception, whose frames hold the baseline's tensors, is gone
        return {**median_seconds(work, self.options.repeat), "eager_s": None}

    def engine(self, batch: int, cfg_min_p: float = 0.0) -> Work:
        """Returns a function that generates one batch with vLLM."""
        from vllm import SamplingParams

        params = [
            SamplingParams(
                temperature=1.0,
                top_k=self.options.top_k,
                seed=seed,
                max_tokens=self.config.num_image_tokens,
                ignore_eos=True,
                detokenize=False,
                extra_args={"cfg_scale": self.options.cfg_scale, "cfg_min_p": cfg_min_p},
            )
            for seed in range(batch)
        ]
        return lambda: self.llm.generate(self.prompts[:batch], params, use_tqdm=False)

    def baseline(self, batch: int) -> Work:
        """Returns a function that generates one batch with the baseline."""
        with torch.device(stage_device().type):
            model = EagerGPT(self.config, batch, self.dtype).requires_grad_(False)
            classes = torch.arange(batch) % self.config.num_classes

        def once() -> None:
            model.generate(classes, self.options.cfg_scale, self.options.top_k)
            if classes.is_cuda:
                torch.cuda.synchronize()

        return once


def random_config(options: EngineOptions) -> LlamaGenConfig:
    """Returns the config of a class model of the options' size."""
    size = SIZES[options.size]
    return LlamaGenConfig(
        architectures=["LlamaGenForCausalLM"],
        **size._asdict(),
        n_kv_head=size.n_head,
        ffn_hidden_dim=size.ffn_hidden_dim,
        grid_size=options.image_size // DOWNSAMPLE,
        cfg_branches=options.cfg_branches,
        dtype="float32",
    )


def _prompts(model: ModelDir | None, config: LlamaGenConfig, count: int) -> list[Any]:
    """Returns vLLM prompts: the classes in turn, or one caption for a text model."""
    if model is None or config.condition == "class":
        return [{"prompt_token_ids": [config.codebook_size + i % config.num_classes]} for i in range(count)]
    stage = text_stage(model, stage_device())
    return [{"prompt_embeds": asyncio.run(stage(CAPTION))}] * count


def _start(options: EngineOptions, config: LlamaGenConfig) -> LLM:
    flags = default_flags(
        load_format="auto" if options.model else "dummy",
        dtype=options.dtype,
        enforce_eager=options.enforce_eager,
        max_num_seqs=max(options.batch),
        disable_log_stats=not options.decode_window,
        decode_window=options.decode_window,
        decode_window_rule="fixed",
    )
    if stage_device().type == "cuda":  # not all free memory: the baseline needs some
        images = max(options.batch) + 1
        flags.kv_cache_memory_bytes = images * kv_cache_bytes(config, options.dtype, GPU_BLOCK_SIZE)
    with tempfile.TemporaryDirectory() as directory:
        config.save_pretrained(directory)
        plan = plan_engine(flags, str(options.model or directory), config)
        return start_offline_engine(plan, in_process=options.profile)
