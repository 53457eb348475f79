"""Checkpoint files of a training run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from llamagen_tokenizer.config import VQConfig
from llamagen_tokenizer.model import VQModel


def save_checkpoint(path: Path, checkpoint: Mapping[str, Any]) -> None:
    """Writes a new file next to the old one, then replaces it, so that a crash leaves the old checkpoint intact."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(dict(checkpoint), partial)
    os.replace(partial, path)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """Loads a checkpoint onto the CPU, or returns None if the file does not exist."""
    return torch.load(path, map_location="cpu", weights_only=True) if path.is_file() else None


def load_trained(path: Path) -> dict[str, Any]:
    """Loads the checkpoint of an earlier run onto the CPU.

    Raises:
        FileNotFoundError: the file does not exist.
    """
    if (state := load_checkpoint(path)) is None:
        raise FileNotFoundError(f"{path}: no such checkpoint; train first")
    return state


def load_trained_vq(path: Path) -> VQModel:
    """Loads the averaged model from the training checkpoint of an image tokenizer, in float32 and evaluation mode."""
    state = load_trained(path)
    model = VQModel(VQConfig.from_dict(state["config"]))
    model.load_state_dict(state["ema"])
    return model.eval().requires_grad_(False)
