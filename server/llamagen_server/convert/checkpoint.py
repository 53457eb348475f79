"""Opens a checkpoint to convert: a file, or a folder as Hugging Face's libraries write it."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamagen_server.model_dir.json_file import read_object
from llamagen_server.model_dir.tensor_files import check_shard, shard_files
from llamagen_tokenizer.checkpoint_files import load_checkpoint
from llamagen_tokenizer.state_dict import GPT, KINDS, NETWORKS, VQ, Network, StateDict, find_weights, holds
from vllm_llamagen.config import LlamaGenConfig

logger = logging.getLogger(__name__)

FLAGS = {GPT: "--gpt-ckpt", VQ: "--vq-ckpt"}

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
"""Suffixes of weights in a folder. A file that is given itself may have any name."""


@dataclass(frozen=True)
class Checkpoint:
    """The weights of one network, and what else the checkpoint states."""

    path: Path
    weights: StateDict
    trainer_args: Mapping[str, Any]
    """Command line of the trainer; empty if the checkpoint does not have it."""
    config: Mapping[str, Any]
    """Content of a folder's ``config.json``; empty for a file."""

    @property
    def config_file(self) -> Path:
        return self.path / "config.json"


def open_checkpoint(path: str | Path, network: Network, kind: str | None) -> Checkpoint:
    """Opens a checkpoint and finds the weights of a network. They are memory-mapped.

    Args:
        path: a file of torch or safetensors, the index of several files, or a folder with weights.
        kind: ``--weights``: ``model``, ``ema``, or None for the order of the official code.

    Raises:
        ValueError: there is no such checkpoint, it cannot be used, or it is one of the other network; one line.
    """
    path = Path(path)
    content: dict[str, object] = {}
    for file, listed in _weight_files(path).items():
        found = load_checkpoint(file)
        check_shard(file, listed, found)
        content |= found
    weights = find_weights(content, network, path, kind)
    _check_network(weights, network, path)
    _log_choice(weights, kind, path)
    args = content.get("args")
    args = vars(args) if isinstance(args, argparse.Namespace) else args
    config = path / "config.json"
    return Checkpoint(
        path=path,
        weights=weights,
        trainer_args=args if isinstance(args, Mapping) else {},
        config=read_object(config) if config.is_file() else {},
    )


def check_kind(kind: str | None, checkpoints: tuple[Checkpoint, ...]) -> None:
    """Raises ValueError if ``--weights`` asks for a kind of weights that no checkpoint has."""
    if kind and not any(checkpoint.weights.kind == kind for checkpoint in checkpoints):
        found = ", ".join(f"{c.path} has {' and '.join(sorted(c.weights.kinds))}" for c in checkpoints)
        raise ValueError(f"--weights {kind}: no checkpoint has them; {found}")


def merge_args(
    given: Mapping[str, Any], flag: str, stated: Mapping[str, Any], config_file: str
) -> tuple[dict[str, Any], str]:
    """Merges what a flag's JSON file and a folder's ``config.json`` say of a network.

    Returns:
        The fields, and the name of their source for messages.

    Raises:
        ValueError: the two contradict each other; the message names the field and both values.
    """
    for name in given.keys() & stated.keys():
        if given[name] != stated[name]:
            raise ValueError(f"{name} is {given[name]!r} in {flag}, but {stated[name]!r} in {config_file}")
    sources = {flag: given, config_file: stated}
    return {**stated, **given}, " or ".join(name for name, args in sources.items() if args) or flag


def _weight_files(path: Path) -> dict[Path, set[str]]:
    """Returns the files of a checkpoint, each with the tensors that an index says it has."""
    if not path.is_dir():
        return shard_files(path) if path.name.endswith(".index.json") else {path: set()}
    if problem := _problem_of_folder(path):
        raise ValueError(f"{path}: {problem}")
    if (single := path / "model.safetensors").is_file():
        return {single: set()}
    indices = list(path.glob("*.index.json"))
    if len(indices) == 1:
        return shard_files(indices[0])
    files = indices or sorted(file for file in path.iterdir() if file.suffix in SUFFIXES and file.is_file())
    if len(files) == 1:
        return {files[0]: set()}
    if not files:
        raise ValueError(
            f"{path}: no weights in this folder, expected model.safetensors or a {', '.join(SUFFIXES)} file"
        )
    names = ", ".join(file.name for file in files[:4]) + (", ..." if len(files) > 4 else "")
    raise ValueError(f"{path}: a folder of {len(files)} checkpoints ({names}), give one of them")


def _problem_of_folder(path: Path) -> str | None:
    """Describes a folder that has weights in a form that must be changed first, or needs no conversion."""
    config = path / "config.json"
    model_type = read_object(config).get("model_type") if config.is_file() else None
    if (path / "vq").is_dir() and model_type == LlamaGenConfig.model_type:
        return f"a model directory already, ready to serve; its image tokenizer alone is {path / 'vq'}"
    if any(path.glob("*.distcp")):
        merge = f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {path} merged.pt"
        return f"shards of torch.distributed; merge them with `{merge}`"
    if (path / "zero_to_fp32.py").is_file():
        return "shards of DeepSpeed; merge them with the zero_to_fp32.py in this folder"
    return None


def _check_network(weights: StateDict, network: Network, path: Path) -> None:
    if any(".lora_" in name for name in weights.tensors):
        raise ValueError(f"{path}: has LoRA adapters beside the weights; merge them before saving")
    if holds(weights.tensors, network):
        return
    for other in NETWORKS:
        if holds(weights.tensors, other):
            raise ValueError(
                f"{path}: {other.title}, which {FLAGS[other]} takes; {FLAGS[network]} takes {network.title}"
            )


def _log_choice(weights: StateDict, kind: str | None, path: Path) -> None:
    """Logs which of several kinds of weights, or of several networks, are used."""
    if len(weights.kinds) > 1 and kind is None:
        [other] = weights.kinds - {weights.kind}
        logger.info("%s: has model and ema, uses %s; --weights %s chooses the other", path, weights.kind, other)
    elif kind is not None:
        found = " and ".join(sorted(weights.kinds, key=KINDS.index))
        logger.info("%s: has %s, uses %s", path, found, weights.kind)
    if weights.left_out:
        logger.info("%s: leaves out %s", path, ", ".join(weights.left_out))
