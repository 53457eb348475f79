"""Reads checkpoints of the official trainers (``.pt``); reads and writes our own directories (safetensors)."""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeGuard

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from llamagen_tokenizer.config import VQConfig
from llamagen_tokenizer.model import VQModel

VQ_KEYS = ("ema", "model", "state_dict")
"""Entries of a VQ checkpoint that may hold the weights, in the order of the official ``vq_demo.py``."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file and the fault."""


def read_pt(path: str | Path, keys: Sequence[str]) -> dict[str, Tensor]:
    """Reads the state dict of a torch checkpoint.

    Args:
        keys: entries that may hold it; see `find_weights`.

    Raises:
        CheckpointError: the file is missing, damaged or has no weights, or loading it would run code.
    """
    return find_weights(load_pt(path), keys, path)


def load_pt(path: str | Path) -> Mapping[str, object]:
    """Reads a torch checkpoint without running code from it; the tensors are memory-mapped where the format allows it.

    The official trainers store an ``argparse.Namespace`` with the weights; no other class is allowed.

    Raises:
        CheckpointError: the file is missing or damaged, or loading it would run code.
    """
    path = Path(path)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f"it holds a {refused[1]}" if refused else "weights-only loading refuses it"
        raise CheckpointError(f"{path}: not a checkpoint of plain tensors ({reason})") from None
    except Exception as error:  # on damaged data the unpickler raises errors of any kind
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: damaged or not a torch checkpoint ({reason})") from None
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, expected a state dict")
    return content


def find_weights(content: Mapping[str, object], keys: Sequence[str], source: str | Path) -> dict[str, Tensor]:
    """Returns the state dict in a checkpoint.

    Args:
        keys: entries of ``content`` that may hold the state dict, tried in order. ``content`` may also be a state dict
            itself, as in a consolidated FSDP file.
        source: name of the checkpoint in the error message.

    Raises:
        CheckpointError: there is no state dict.
    """
    for candidate in (*(content.get(key) for key in keys), content):
        if _is_state_dict(candidate):
            return dict(candidate)
    found = ", ".join(str(k) for k in list(content)[:8])
    raise CheckpointError(f"{source}: no weights under {', '.join(keys)}; the file has {found or 'nothing'}")


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """Reads all tensors of a file. Raises `CheckpointError` if it is missing or damaged."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except SafetensorError as error:
        raise CheckpointError(f"{path}: damaged or not a safetensors file ({error})") from None


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
    """Loads an official VQ checkpoint (``vq_ds16_c2i.pt``, ...) in float32, on the CPU, for inference.

    Raises:
        CheckpointError: the file cannot be read or does not fit ``config``.
    """
    weights = read_pt(path, VQ_KEYS)
    weights.pop("quantize.codebook_used", None)  # usage counts of training
    return _build(config, weights, path)


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
    return _build(config, read_safetensors(source), source)


def save_vq(model: VQModel, directory: str | Path) -> None:
    """Writes the directory that `load_vq` reads; tensors keep their dtype."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    model.config.to_json(directory / "config.json")
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, directory / "model.safetensors")


def _build(config: VQConfig, weights: Mapping[str, Tensor], source: str | Path) -> VQModel:
    with torch.device("meta"):
        model = VQModel(config)
    model.to_empty(device="cpu")
    load_weights(model, weights, source)
    return model.float().eval().requires_grad_(False)


def _is_state_dict(value: object) -> TypeGuard[Mapping[str, Tensor]]:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(v, Tensor) for v in value.values())


def _is_zip(path: Path) -> bool:
    """Whether torch can memory-map the file: checkpoints from before torch 1.6 are plain pickles, not zip files."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"
