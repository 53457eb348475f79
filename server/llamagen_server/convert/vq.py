"""Reads an official image tokenizer checkpoint; its config follows from the shapes of its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llamagen_server.model_dir.json_file import read_object
from llamagen_server.model_dir.tensor_files import Shapes, difference, vq_shapes
from llamagen_tokenizer import CONFIGS, CheckpointError, VQConfig, VQModel, load_vq_pt
from llamagen_tokenizer.checkpoint import VQ_KEYS, read_pt

STATISTICS = "quantize.codebook_used"
"""Usage counts that training leaves in the file."""


def read_vq(checkpoint: str | Path, config_file: str | Path | None) -> VQModel:
    """Loads an official image tokenizer, in the dtype of the file, or in float32 if the file has several dtypes.

    Args:
        config_file: JSON with official ``ModelArgs`` fields, ``ch`` and ``num_res_blocks``; required for shapes that
            were not released.

    Raises:
        ValueError: the checkpoint cannot be read, has a shape that was not released, or does not fit ``config_file``.
    """
    weights = {name: tensor for name, tensor in read_pt(checkpoint, VQ_KEYS).items() if name != STATISTICS}
    shapes = {name: list(tensor.shape) for name, tensor in weights.items()}
    if len(shapes.get("quantize.embedding.weight", [])) != 2:
        raise CheckpointError(
            f"{checkpoint}: not an image tokenizer, it has no quantize.embedding.weight of [codes, dim]"
        )
    if config_file is None:
        config = _released_config(shapes, checkpoint)
    else:
        config = _described_config(config_file, shapes, checkpoint)
    return load_vq_pt(checkpoint, config).to(_common_dtype(weights))


def _common_dtype(weights: Mapping[str, Tensor]) -> torch.dtype:
    dtypes = {tensor.dtype for tensor in weights.values()}
    return dtypes.pop() if len(dtypes) == 1 else torch.float32


def _released_config(shapes: Shapes, checkpoint: str | Path) -> VQConfig:
    codes, width = shapes["quantize.embedding.weight"]
    for config in CONFIGS.values():
        candidate = replace(config, codebook_size=codes, codebook_embed_dim=width)
        if difference(shapes, vq_shapes(candidate)) is None:
            return candidate
    raise ValueError(f"{checkpoint}: not the shape of {' or '.join(CONFIGS)}; describe it with --vq-config")


def _described_config(path: str | Path, shapes: Shapes, checkpoint: str | Path) -> VQConfig:
    """Reads ``--vq-config`` and compares it with the checkpoint, which also supplies the size of the codebook."""
    values = read_object(path)
    codes, width = shapes["quantize.embedding.weight"]
    stored: dict[str, Any] = {"codebook_size": codes, "codebook_embed_dim": width}
    for name, value in stored.items():
        if values.get(name, value) != value:
            raise ValueError(f"{name} is {values[name]!r} in --vq-config {path}, but {value} in {checkpoint}")
    try:
        config = VQConfig.from_dict(values | stored)
    except (ValueError, TypeError) as error:
        raise ValueError(f"--vq-config {path}: {error}") from None
    if problem := difference(shapes, vq_shapes(config)):
        raise ValueError(f"{checkpoint}: does not fit --vq-config {path}: {problem}")
    return config
