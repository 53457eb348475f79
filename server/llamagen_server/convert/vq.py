"""Reads an image tokenizer checkpoint; its config follows from the shapes of its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llamagen_server.convert.checkpoint import Checkpoint, merge_args
from llamagen_server.model_dir.json_file import read_object
from llamagen_server.model_dir.tensor_files import Shapes, difference, vq_shapes
from llamagen_tokenizer import CONFIGS, CheckpointError, VQConfig, VQModel
from llamagen_tokenizer.checkpoint import STATISTICS, build_vq
from llamagen_tokenizer.other_names import TAMING

SHAPE_ARGS = (
    "codebook_size", "codebook_embed_dim", "codebook_l2_norm", "encoder_ch_mult", "decoder_ch_mult", "z_channels",
    "ch", "num_res_blocks",
)  # fmt: skip
"""Fields of the official VQ ``ModelArgs``, and constants of the official code, that a folder's config may state."""


def read_vq(checkpoint: Checkpoint, config_file: str | Path | None) -> VQModel:
    """Loads an image tokenizer, in the dtype of the file, or in float32 if the file has several dtypes.

    Args:
        config_file: JSON with official ``ModelArgs`` fields, ``ch`` and ``num_res_blocks``; required for shapes that
            were not released and that the folder's ``config.json`` does not state.

    Raises:
        ValueError: the checkpoint has a shape that was not released, or does not fit ``config_file`` or the folder's
            ``config.json``.
    """
    weights = {name: tensor for name, tensor in checkpoint.weights.tensors.items() if name != STATISTICS}
    shapes = {name: list(tensor.shape) for name, tensor in weights.items()}
    if len(shapes.get("quantize.embedding.weight", [])) != 2:
        raise CheckpointError(
            f"{checkpoint.path}: not an image tokenizer, it has no quantize.embedding.weight of [codes, dim]"
        )
    stated = {name: checkpoint.config[name] for name in SHAPE_ARGS if name in checkpoint.config}
    given = read_object(config_file) if config_file else {}
    args, source = merge_args(given, f"--vq-config {config_file}", stated, str(checkpoint.config_file))
    l2_norm = checkpoint.weights.naming is not TAMING
    config = _config(shapes, l2_norm, args, source, str(checkpoint.path))
    return build_vq(config, weights, checkpoint.path).to(_common_dtype(weights))


def _config(shapes: Shapes, l2_norm: bool, args: Mapping[str, Any], source: str, file: str) -> VQConfig:
    """Returns the released config that fits the checkpoint, or the one that ``args`` describe.

    Args:
        l2_norm: ``codebook_l2_norm``, unless ``args`` state it.
    """
    codes, width = shapes["quantize.embedding.weight"]
    stored: dict[str, Any] = {"codebook_size": codes, "codebook_embed_dim": width}
    for name, value in stored.items():
        if args.get(name, value) != value:
            raise ValueError(f"{name} is {args[name]!r} in {source}, but {value} in {file}")
    candidates = [replace(config, **stored, codebook_l2_norm=l2_norm) for config in CONFIGS.values()]
    released = [config for config in candidates if difference(shapes, vq_shapes(config)) is None]
    if not released and not args:
        raise ValueError(f"{file}: not the shape of {' or '.join(CONFIGS)}; describe it with --vq-config")
    try:
        config = VQConfig.from_dict(asdict((released or candidates)[0]) | dict(args) | stored)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{source}: {error}") from None
    if problem := difference(shapes, vq_shapes(config)):
        raise ValueError(f"{file}: does not fit {source}: {problem}")
    return config


def _common_dtype(weights: Mapping[str, Tensor]) -> torch.dtype:
    dtypes = {tensor.dtype for tensor in weights.values()}
    return dtypes.pop() if len(dtypes) == 1 else torch.float32
