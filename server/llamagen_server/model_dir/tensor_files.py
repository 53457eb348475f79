"""Reads the shapes of stored tensors, or a few of the tensors, without reading the rest."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from llamagen_server.model_dir.json_file import read_object
from llamagen_tokenizer import VQConfig, VQModel
from llamagen_tokenizer.checkpoint_files import check_file

Shapes = Mapping[str, Sequence[int]]
"""Name of a tensor -> its shape."""

INDEX = "model.safetensors.index.json"


def stored_shapes(directory: Path) -> dict[str, list[int]]:
    """Returns the shapes of the tensors in ``model.safetensors``, or in the files of ``model.safetensors.index.json``.

    Only headers are read; the length of a file is checked against its header.

    Raises:
        ValueError: a file is missing, truncated or not safetensors, or lacks a tensor that the index lists.
    """
    shapes: dict[str, list[int]] = {}
    for path, listed in _weight_files(directory).items():
        found = _file_shapes(path)
        check_shard(path, listed, found)
        shapes |= found
    return shapes


def read_tensors(directory: Path, names: Collection[str]) -> dict[str, Tensor]:
    """Reads some of the tensors in ``model.safetensors`` or the files of its index; absent names are skipped."""
    tensors: dict[str, Tensor] = {}
    for path in _weight_files(directory):
        with safe_open(path, "pt") as file:
            tensors |= {name: file.get_tensor(name) for name in names if name in file.keys()}  # noqa: SIM118
    return tensors


def shard_files(index: Path) -> dict[Path, set[str]]:
    """Reads an index: file next to it -> names of the tensors in that file.

    Raises:
        ValueError: the index is damaged or names a file elsewhere.
    """
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{index}: weight_map is {weight_map!r}, expected tensor names with their files")
    shards: dict[Path, set[str]] = {}
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or Path(name).name != name:
            raise ValueError(f"{index}: {tensor} is in {name!r}, expected the name of a file next to the index")
        shards.setdefault(index.with_name(name), set()).add(tensor)
    return shards


def check_shard(path: Path, listed: Collection[str], found: Collection[str]) -> None:
    """Raises ValueError if a file lacks a tensor that the index lists for it."""
    if missing := sorted(set(listed) - set(found)):
        raise ValueError(f"{path}: tensor {missing[0]} is missing, the index lists it")


def vq_shapes(config: VQConfig) -> dict[str, list[int]]:
    """Returns the shapes of the tensors of an image tokenizer."""
    with torch.device("meta"):
        return {name: list(tensor.shape) for name, tensor in VQModel(config).state_dict().items()}


def difference(found: Shapes, expected: Shapes) -> str | None:
    """Describes in one phrase how the tensors differ from the expected ones; returns None if they do not."""
    if missing := sorted(expected.keys() - found.keys()):
        return f"{len(missing)} tensors are missing, first {missing[0]}"
    if unexpected := sorted(found.keys() - expected.keys()):
        return f"{len(unexpected)} unexpected tensors, first {unexpected[0]}"
    for name, shape in expected.items():
        if list(found[name]) != list(shape):
            return f"{name} has shape {list(found[name])}, expected {list(shape)}"
    return None


def _weight_files(directory: Path) -> dict[Path, set[str]]:
    """Returns the files of a directory's tensors, each with the names that the index lists for it."""
    single, index = directory / "model.safetensors", directory / INDEX
    return {single: set()} if single.is_file() or not index.is_file() else shard_files(index)


def _file_shapes(path: Path) -> dict[str, list[int]]:
    check_file(path)
    try:
        with safe_open(path, "pt") as file:
            return {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: damaged or not a safetensors file ({error})") from None
