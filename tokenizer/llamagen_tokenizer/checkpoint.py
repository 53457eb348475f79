"""Builds the image tokenizer from checkpoints, and writes and reads its own directories."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from llamagen_tokenizer.checkpoint_files import CheckpointError, load_checkpoint, load_safetensors
from llamagen_tokenizer.config import VQConfig
from llamagen_tokenizer.model import VQModel
from llamagen_tokenizer.state_dict import VQ, check_floating, find_weights

STATISTICS = "quantize.codebook_used"
"""Usage counts that training leaves in a checkpoint."""


def load_weights(model: torch.nn.Module, weights: Mapping[str, Tensor], source: str | Path) -> None:
    """Loads weights into ``model``.

    Raises:
        CheckpointError: a tensor is missing, unexpected or has another shape; the message names the first.
    """
    own = model.state_dict()
    if missing := sorted(own.keys() - weights.keys()):
        raise CheckpointError(f"{source}: {len(missing)} tensors are missing, first {missing[0]}")
    if unexpected := sorted(weights.keys() - own.keys()):
        raise CheckpointError(f"{source}: {len(unexpected)} unexpected tensors, first {unexpected[0]}")
    for name, tensor in weights.items():
        if tensor.shape != own[name].shape:
            raise CheckpointError(f"{source}: {name} has shape {list(tensor.shape)}, expected {list(own[name].shape)}")
    model.load_state_dict(weights)


def load_vq_pt(path: str | Path, config: VQConfig) -> VQModel:
    """Loads a VQ checkpoint, official (``vq_ds16_c2i.pt``, ...) or not, in float32, on the CPU, for inference.

    Names of taming-transformers' VQGAN are read too; its ``config.codebook_l2_norm`` is False.

    Raises:
        CheckpointError: the file cannot be read or does not fit ``config``.
    """
    weights = find_weights(load_checkpoint(path), VQ, path).tensors
    weights.pop(STATISTICS, None)
    return build_vq(config, weights, path)


def load_vq(directory: str | Path) -> VQModel:
    """Loads ``config.json`` and ``model.safetensors`` of our own directory in float32, on the CPU, for inference.

    Raises:
        CheckpointError: a file is missing or damaged, or the weights do not fit the config.
    """
    directory = Path(directory)
    if not (directory / "config.json").is_file():
        raise CheckpointError(f"{directory}: no image tokenizer here (config.json is missing)")
    try:
        config = VQConfig.from_json(directory / "config.json")
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{directory / 'config.json'}: {error}") from None
    source = directory / "model.safetensors"
    return build_vq(config, load_safetensors(source), source)


def save_vq(model: VQModel, directory: str | Path) -> None:
    """Writes the directory that `load_vq` reads; tensors keep their dtype."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    model.config.to_json(directory / "config.json")
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, directory / "model.safetensors")


def build_vq(config: VQConfig, weights: Mapping[str, Tensor], source: str | Path) -> VQModel:
    """Makes a network with these weights in float32, on the CPU, for inference.

    Raises:
        CheckpointError: the weights do not fit ``config``; the message names ``source``.
    """
    check_floating(weights, source)
    with torch.device("meta"):
        model = VQModel(config)
    model.to_empty(device="cpu")
    load_weights(model, weights, source)
    return model.float().eval().requires_grad_(False)
