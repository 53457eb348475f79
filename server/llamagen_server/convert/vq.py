"""Tells the config of an image tokenizer checkpoint from the shapes of its tensors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from llamagen_server.model_dir.json_file import read_object
from llamagen_server.model_dir.tensor_files import Shapes, difference, vq_shapes
from llamagen_tokenizer import CONFIGS, CheckpointError, VQConfig, VQModel, load_vq_pt
from llamagen_tokenizer.checkpoint import VQ_KEYS, read_pt

STATISTICS = "quantize.codebook_used"
"""Usage counts that training leaves in the file."""


def read_vq(checkpoint: str, config_file: str | None) -> VQModel:
    """Loads an official image tokenizer. Weights that are all of one dtype in the file keep it, else they are float32.

    Args:
        config_file: JSON with official ``ModelArgs`` fields, and ch and num_res_blocks; needed for shapes that were
            not released.

    Raises:
        ValueError: the checkpoint cannot be read, has a shape that must be told, or not the one that was told.
    """
    weights = read_pt(checkpoint, VQ_KEYS)
    shapes = {name: list(tensor.shape) for name, tensor in weights.items() if name != STATISTICS}
    codebook = shapes.get("quantize.embedding.weight", [])
    if len(codebook) != 2:
        raise CheckpointError(
            f"{checkpoint}: not an image tokenizer, it has no quantize.embedding.weight of [codes, dim]"
        )
    dtypes = {tensor.dtype for name, tensor in weights.items() if name != STATISTICS}
    dtype = dtypes.pop() if len(dtypes) == 1 else torch.float32
    if config_file is None:
        return load_vq_pt(checkpoint, _released_config(shapes, checkpoint)).to(dtype)
    config = _told_config(config_file, {"codebook_size": codebook[0], "codebook_embed_dim": codebook[1]}, checkpoint)
    if problem := difference(shapes, vq_shapes(config)):
        raise ValueError(f"{checkpoint}: does not fit --vq-config {config_file}: {problem}")
    return load_vq_pt(checkpoint, config).to(dtype)


def _released_config(shapes: Shapes, source: str) -> VQConfig:
    codes, width = shapes["quantize.embedding.weight"]
    for config in CONFIGS.values():
        candidate = replace(config, codebook_size=codes, codebook_embed_dim=width)
        if difference(shapes, vq_shapes(candidate)) is None:
            return candidate
    raise ValueError(f"{source}: not the shape of {' or '.join(CONFIGS)}; describe it with --vq-config")


def _told_config(path: str, stored: dict[str, Any], checkpoint: str) -> VQConfig:
    values = read_object(path)
    for name, value in stored.items():
        if values.setdefault(name, value) != value:
            raise ValueError(f"{name} is {values[name]!r} in --vq-config {path}, but {value} in {checkpoint}")
    try:
        return VQConfig.from_dict(values)
    except (ValueError, TypeError) as error:
        raise ValueError(f"--vq-config {path}: {error}") from None
