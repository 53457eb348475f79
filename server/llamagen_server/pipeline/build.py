"""From a model directory to a running pipeline."""

from __future__ import annotations

import argparse
import ctypes
import logging
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

from llamagen_server.engine import arguments as vllm_args
from llamagen_server.engine.vllm_engine import VLLMEngine
from llamagen_server.model_dir import ModelDir
from llamagen_server.pipeline.pipeline import MAX_IN_FLIGHT, Pipeline
from llamagen_server.stages.image_tokenizer import ImageTokenizer
from llamagen_server.stages.text import TextStage
from llamagen_server.stages.text_encoder import TextEncoder
from llamagen_tokenizer import load_vq
from vllm_llamagen.caption_projection import TextCondition

logger = logging.getLogger(__name__)

DEMO_MODEL = Path(__file__).parents[1] / "demo_model"

MAX_BATCH = {"cpu": 1, "cuda": 8}
"""Items that a stage does in one call. A CPU is no faster at several, and the first would wait for the last."""

VQ_DTYPES = ("auto", "float32", "bfloat16")
"""What pixels are decoded in. ``auto``: what the tokenizer's config says on a CPU with units for it, else float32."""


def open_model(path: str | Path | None, guidance_streams: int = 2) -> ModelDir:
    """Checks a model directory, by default the demo's, without loading it.

    Raises:
        ModelDirError: something is wrong with it; the message says what.
    """
    model = ModelDir.open(path or DEMO_MODEL)
    model.config.guidance_streams = guidance_streams
    if guidance_streams == 1:
        model = replace(model, defaults=replace(model.defaults, cfg_scale=1.0))
    return model


def load_pipeline(
    model: ModelDir, flags: argparse.Namespace, max_in_flight: int = MAX_IN_FLIGHT, vq_dtype: str = "auto"
) -> Pipeline:
    """Starts the engine with vLLM's ``flags`` and loads the stages around it. Blocks until all is ready.

    ``vq_dtype`` is one of VQ_DTYPES.
    """
    takes_all = flags.gpu_memory_utilization is None
    arguments = vllm_args.engine_args(flags, str(model.path), model.config)
    device = stage_device()
    text = text_stage(model, device) if model.config.condition == "text" else None
    tokenizer = image_tokenizer(model, device, vq_dtype)
    if text:
        text.warm_up()
    tokenizer.warm_up()
    if device.type == "cuda" and takes_all:
        arguments.gpu_memory_utilization = vllm_args.free_share()
    return Pipeline(model, VLLMEngine(vllm_args.start_engine(arguments)), tokenizer, text, max_in_flight)


def stage_device() -> torch.device:
    """Where the stages around the engine run: with it."""
    from vllm.platforms import current_platform

    return torch.device("cuda" if current_platform.is_cuda() else "cpu")


def image_tokenizer(model: ModelDir, device: torch.device, dtype: str = "auto") -> ImageTokenizer:
    """The stage after the engine, decoding in ``dtype``, one of VQ_DTYPES."""
    if dtype == "auto":
        dtype = model.vq_config.dtype if device.type == "cpu" and _computes_bfloat16() else "float32"
    logger.info("decoding pixels in %s", dtype)
    vq = load_vq(model.vq_path).decode_in(getattr(torch, dtype)).to(device)
    calls = 1
    if device.type == "cpu":
        _keep_freed_memory()
        if vllm_args.threads_on_few_cores(sum(weight.numel() for weight in vq.parameters())) == 1:
            calls = vllm_args.cores()  # side by side, on one thread each
            torch.set_num_threads(1)
    return ImageTokenizer(vq, model.config.grid_size, MAX_BATCH[device.type], calls)


def _computes_bfloat16() -> bool:
    """Whether this CPU has units for bfloat16; without them it is slower than float32."""
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def _keep_freed_memory() -> None:
    """Has glibc keep large blocks that are freed (``man mallopt``), unless the environment says how it should behave.

    A decoder on a CPU takes them anew for each picture; the kernel would map and clear their pages each time.
    """
    trim_threshold, mmap_threshold, arena_max = -1, -3, -8
    if any(name.startswith("MALLOC_") for name in os.environ):
        return
    with suppress(OSError, AttributeError, TypeError):  # another C library has no such thing
        mallopt = ctypes.CDLL(None).mallopt
        if mallopt(mmap_threshold, 2**30) or mallopt(mmap_threshold, 2**25):  # glibc below 2.35 takes 32 MiB at most
            mallopt(trim_threshold, 2**31 - 1)
            mallopt(arena_max, 1)  # the heaps of other arenas end at 64 MiB


def text_stage(model: ModelDir, device: torch.device) -> TextStage:
    """The stage before the engine of a text model; on a GPU in bfloat16, as in the official sampler."""
    assert model.text_encoder is not None
    config = model.config
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    encoder = TextEncoder(
        model.text_encoder,
        max_tokens=config.cls_token_num,
        clean=config.clean_caption,
        width=config.caption_dim,
        device=device,
        dtype=dtype,
    )
    condition = TextCondition(config, model.text_condition_weights()).to(device, dtype)
    return TextStage(encoder, condition, MAX_BATCH[device.type])
