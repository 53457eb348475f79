"""Reads an official GPT checkpoint."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from llamagen_server.convert.config import infer_config, is_buffer
from llamagen_server.convert.grid import Hints
from llamagen_server.convert.options import ConvertOptions
from llamagen_server.model_dir.directory import DTYPES
from llamagen_server.model_dir.json_file import read_object
from llamagen_tokenizer.checkpoint import find_weights, load_pt
from vllm_llamagen.config import LlamaGenConfig

GPT_KEYS = ("model", "module", "state_dict")
"""Entries of a GPT checkpoint that may hold the weights, in the order of the official samplers."""


def read_gpt(options: ConvertOptions, downsample: int) -> tuple[LlamaGenConfig, dict[str, Tensor]]:
    """Returns the config of the network and its weights by official name, in the chosen dtype and without buffers.

    Args:
        downsample: pixels per image token along one side, of the image tokenizer.

    Raises:
        ValueError: the checkpoint cannot be read, lacks a value or conflicts with an option.
    """
    content = load_pt(options.gpt_ckpt)
    weights = find_weights(content, GPT_KEYS, options.gpt_ckpt)
    trainer_args = content.get("args")
    hints = Hints(
        file=str(options.gpt_ckpt),
        downsample=downsample,
        model_args=read_object(options.gpt_config) if options.gpt_config else {},
        trainer_args=vars(trainer_args) if isinstance(trainer_args, argparse.Namespace) else {},
        image_size=options.image_size,
    )
    shapes = {name: list(tensor.shape) for name, tensor in weights.items()}
    weights = {name: tensor for name, tensor in weights.items() if not is_buffer(name)}
    dtype = options.dtype or _stored_dtype(weights, options.gpt_ckpt)
    return infer_config(shapes, hints, dtype), {name: _cast(tensor, dtype) for name, tensor in weights.items()}


def _stored_dtype(weights: Mapping[str, Tensor], source: str | Path) -> str:
    """Returns the dtype of the tensors, or float32 if they have several."""
    stored = {str(tensor.dtype).removeprefix("torch.") for tensor in weights.values()}
    if unknown := sorted(stored - set(DTYPES)):
        raise ValueError(f"{source}: has tensors of {unknown[0]}; choose one of {', '.join(DTYPES)} with --dtype")
    return stored.pop() if len(stored) == 1 else "float32"


def _cast(tensor: Tensor, dtype: str) -> Tensor:
    """Returns a dense tensor of that dtype: the memory-mapped one of the file where it already is."""
    tensor = tensor.detach().to(getattr(torch, dtype)).contiguous()
    return tensor if tensor.nbytes == tensor.untyped_storage().nbytes() else tensor.clone()
