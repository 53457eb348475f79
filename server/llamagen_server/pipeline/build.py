"""Building a running pipeline from a model directory.

Building leaves the calling process as it was: threads, memory allocator and environment.
`llamagen_server.engine.cpu.tune_process` changes those, for processes of our own.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from pathlib import Path

import torch

from llamagen_server.core.options import DEMOS, Limits, RestartPolicy
from llamagen_server.engine import cpu
from llamagen_server.engine.arguments import EnginePlan, default_flags, plan_engine
from llamagen_server.engine.environment import unchanged_environment
from llamagen_server.engine.gpu import fit_engine
from llamagen_server.engine.own_engine import VLLMStarter
from llamagen_server.engine.supervisor import SupervisedEngine
from llamagen_server.hub.names import resolve_model
from llamagen_server.model_dir import ModelDir
from llamagen_server.pipeline.memory import WeightBytes, check_memory, language_model_bytes
from llamagen_server.pipeline.pipeline import Pipeline
from llamagen_server.stages.image_tokenizer import ImageTokenizerStage
from llamagen_server.stages.text import TextStage
from llamagen_server.stages.text_encoder import TextEncoder
from llamagen_tokenizer import load_vq
from vllm_llamagen.caption_projection import CaptionProjection
from vllm_llamagen.process_group import OWN_PROCESS_GROUP

logger = logging.getLogger(__name__)

DEMO_MODELS = {name: Path(__file__).parents[1] / "demo_models" / name for name in DEMOS}
DEMO_MODEL = DEMO_MODELS[DEMOS[0]]

MAX_BATCH = {"cpu": 1, "cuda": 8}
"""Batch size of a stage. A CPU gains nothing from batching, and the first item would wait for the last."""


def open_model(model: str | Path | None, cfg_branches: int = 2) -> ModelDir:
    """Checks a model directory, by default that of the text demo, without loading it.

    Args:
        model: the directory, or the name of an official model, which is downloaded and converted on first use.
        cfg_branches: 1 for a model that never guides, at half the work.

    Raises:
        ValueError: the model cannot be downloaded, or the directory cannot be served; the message states why.
    """
    opened = ModelDir.open(resolve_model(model) if model else DEMO_MODEL)
    opened.config.cfg_branches = cfg_branches
    if cfg_branches == 1:
        opened = replace(opened, defaults=replace(opened.defaults, cfg_scale=1.0))
    return opened


def public_name(model: ModelDir) -> str:
    """Returns the name that clients see unless another is chosen: that of the model's directory."""
    demos = {DEMO_MODELS["text"]: "llamagen-demo", DEMO_MODELS["class"]: "llamagen-demo-class"}
    return demos.get(model.path) or model.path.resolve().name


def build_pipeline(
    model: ModelDir,
    flags: argparse.Namespace | None = None,
    *,
    limits: Limits = Limits(),
    vq_dtype: str = "auto",
    decode_workers: int = 1,
    own_process_group: bool = False,
    restarts: RestartPolicy = RestartPolicy(),
) -> Pipeline:
    """Starts the engine and loads the stages around it. Blocks until all are ready.

    Args:
        flags: vLLM's engine flags, as `engine.arguments.default_flags` returns them.
        vq_dtype: dtype of decoding, one of `core.options.VQ_DTYPES`.
        decode_workers: images that are decoded at a time on a CPU; what `tune_process` returns.
        own_process_group: keeps a terminal's Ctrl-C from the engine, which then ends with this process.
        restarts: when a new engine replaces one that ended or hangs.

    Raises:
        ValueError: a flag or the model is wrong, or a CPU's memory is too small.
        EngineStoppedError: the engine did not start.
    """
    flags = flags or default_flags()
    plan = _plan(model, flags)
    if own_process_group:
        plan.environment[OWN_PROCESS_GROUP] = "1"
    image_tokenizer, text = load_stages(model, vq_dtype, decode_workers)
    if stage_device().type == "cuda":
        fit_engine(plan.arguments, flags, model.config, language_model_bytes(model, flags.dtype))
    engine = SupervisedEngine(VLLMStarter(plan), model.config.num_image_tokens, restarts)
    return Pipeline(model, engine, image_tokenizer, text, limits)


def _plan(model: ModelDir, flags: argparse.Namespace) -> EnginePlan:
    """Plans the engine. On a CPU, weights and KV cache must fit into memory; a GPU's memory is left to vLLM."""
    if stage_device().type != "cpu":
        return plan_engine(flags, str(model.path), model.config)
    weights = WeightBytes.of(model, flags.dtype, flags.data_parallel_size)
    plan = plan_engine(flags, str(model.path), model.config, weights.total)
    check_memory(public_name(model), weights, plan.arguments)
    return plan


def load_stages(
    model: ModelDir, vq_dtype: str = "auto", decode_workers: int = 1
) -> tuple[ImageTokenizerStage, TextStage | None]:
    """Loads the stages around an engine and runs each once, so that the first request is no slower than others.

    A class model has no text stage. The arguments are those of `build_pipeline`.
    """
    device = stage_device()
    text = text_stage(model, device) if model.config.condition == "text" else None
    image_tokenizer = image_tokenizer_stage(model, device, vq_dtype, decode_workers)
    if text:
        text.warm_up()
    image_tokenizer.warm_up()
    return image_tokenizer, text


@unchanged_environment()
def stage_device() -> torch.device:
    """Returns the device of the stages: the engine's."""
    from vllm_llamagen.vllm_compat import current_platform

    return torch.device("cuda" if current_platform.is_cuda() else "cpu")


def image_tokenizer_stage(
    model: ModelDir, device: torch.device, dtype: str = "auto", workers: int = 1
) -> ImageTokenizerStage:
    """Loads the image tokenizer stage, which decodes in ``dtype``, one of `core.options.VQ_DTYPES`."""
    dtype = decoding_dtype(model, device, dtype)
    logger.info("decoding pixels in %s", dtype)
    vq = load_vq(model.vq_path).decode_in(getattr(torch, dtype)).to(device)
    return ImageTokenizerStage(vq, model.config.grid_size, MAX_BATCH[device.type], workers)


def decoding_dtype(model: ModelDir, device: torch.device, dtype: str) -> str:
    """Returns the dtype that ``dtype``, one of `core.options.VQ_DTYPES`, means for this model and device."""
    if dtype != "auto":
        return dtype
    return model.vq_config.dtype if device.type == "cpu" and cpu.has_bfloat16_units() else "float32"


def text_stage(model: ModelDir, device: torch.device) -> TextStage:
    """Loads the text stage of a text model; in bfloat16 on a GPU, as the official sampler does."""
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
    projection = CaptionProjection(config, model.caption_projection_weights()).to(device, dtype)
    return TextStage(encoder, projection, MAX_BATCH[device.type])
