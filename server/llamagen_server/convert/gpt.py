"""Reads a GPT checkpoint: its config and its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from llamagen_server.convert.checkpoint import Checkpoint, merge_args
from llamagen_server.convert.config import infer_config, is_buffer, stated_args
from llamagen_server.convert.grid import Hints
from llamagen_server.convert.options import ConvertOptions
from llamagen_server.model_dir.directory import DTYPES
from llamagen_server.model_dir.json_file import read_object
from llamagen_tokenizer.state_dict import check_floating
from vllm_llamagen.config import LlamaGenConfig

TIED = ("tok_embeddings.weight", "output.weight")
"""Tensors that are one and the same in a network with tied embeddings."""


def read_gpt(
    checkpoint: Checkpoint, options: ConvertOptions, downsample: int
) -> tuple[LlamaGenConfig, dict[str, Tensor]]:
    """Returns the config of the network and its weights by official name, in the chosen dtype and without buffers.

    Args:
        downsample: pixels per image token along one side, of the image tokenizer.

    Raises:
        ValueError: the checkpoint lacks a value or conflicts with an option.
    """
    hints = _hints(checkpoint, options, downsample)
    stored = _with_tied(checkpoint.weights.tensors, hints)
    shapes = {name: list(tensor.shape) for name, tensor in stored.items()}
    weights = {name: tensor for name, tensor in stored.items() if not is_buffer(name)}
    check_floating(weights, checkpoint.path)
    dtype = options.dtype or _stored_dtype(weights, checkpoint.path)
    config = infer_config(shapes, hints, dtype)
    cast = {name: tensor.detach().to(getattr(torch, dtype)).contiguous() for name, tensor in weights.items()}
    return config, _separate(cast)


def _hints(checkpoint: Checkpoint, options: ConvertOptions, downsample: int) -> Hints:
    """Collects what is known besides the tensors: ``--gpt-config``, the folder's config and the trainer's arguments."""
    given = read_object(options.gpt_config) if options.gpt_config else {}
    stated = stated_args(checkpoint.config, checkpoint.weights.naming)
    args, source = merge_args(given, "--gpt-config", stated, str(checkpoint.config_file))
    sizes = {name: checkpoint.config[name] for name in ("image_size", "downsample_size") if name in checkpoint.config}
    return Hints(
        file=str(options.gpt_ckpt),
        downsample=downsample,
        model_args=args,
        args_source=source,
        trainer_args=checkpoint.trainer_args or sizes,
        trainer_source="the trainer's command line" if checkpoint.trainer_args else str(checkpoint.config_file),
        image_size=options.image_size,
    )


def _with_tied(weights: Mapping[str, Tensor], hints: Hints) -> dict[str, Tensor]:
    """Restores the one of two tied tensors that was not stored, if the config states that they are tied."""
    stored = [name for name in TIED if name in weights]
    if len(stored) != 1:
        return dict(weights)
    [missing] = set(TIED) - set(stored)
    if hints.model_args.get("tie_word_embeddings") is not True:
        raise ValueError(
            f"{hints.file}: {missing} is missing; if the network uses {stored[0]} for it, "
            'give {"tie_word_embeddings": true} with --gpt-config'
        )
    return {**weights, missing: weights[stored[0]]}


def _stored_dtype(weights: Mapping[str, Tensor], source: str | Path) -> str:
    """Returns the dtype of the tensors, or float32 if they have several."""
    stored = {str(tensor.dtype).removeprefix("torch.") for tensor in weights.values()}
    if unknown := sorted(stored - set(DTYPES)):
        raise ValueError(f"{source}: has tensors of {unknown[0]}; choose one of {', '.join(DTYPES)} with --dtype")
    return stored.pop() if len(stored) == 1 else "float32"


def _separate(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies tensors that share memory with another one, as tied ones do: safetensors does not store them.

    All others stay memory-mapped.
    """
    end = 0
    for name in sorted(weights, key=lambda name: weights[name].data_ptr()):
        if weights[name].data_ptr() < end:
            weights[name] = weights[name].clone()
        else:
            end = weights[name].data_ptr() + weights[name].nbytes
    return weights
