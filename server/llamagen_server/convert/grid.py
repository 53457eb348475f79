"""Finds the grid of a checkpoint: how many image tokens one side of its images has.

The weights alone do not determine it: positions are rotary, and most checkpoints lack the rotary table.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from llamagen_server.model_dir.tensor_files import Shapes

OFFICIAL_NAME = re.compile(
    r"(?:c2i|t2i)_(?:B|L|XL|XXL|XXXL|1B|3B|7B)(?:_stage\d)?_(256|384|512)(?:\.(?:pt|pth|safetensors))?"
)
"""Name of a released checkpoint, as a file or a folder; it ends with the image size in pixels."""


@dataclass(frozen=True)
class Hints:
    """Information on a GPT checkpoint besides the shapes of its tensors."""

    file: str
    """Path of the checkpoint."""
    downsample: int
    """Pixels per image token along one side, of the image tokenizer."""
    model_args: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the official ``ModelArgs``."""
    args_source: str = "--gpt-config"
    """Where ``model_args`` are from."""
    trainer_args: Mapping[str, Any] = field(default_factory=dict)
    """Command line of the official trainer, as stored in the checkpoint, or the same fields in ``config.json``."""
    trainer_source: str = "the trainer's command line"
    """Where ``trainer_args`` are from."""
    image_size: int | None = None
    """``--image-size``, in pixels."""


def find_grid(shapes: Shapes, hints: Hints, cls_token_num: int) -> int:
    """Returns the number of image tokens per side.

    Args:
        cls_token_num: number of condition tokens before the image tokens.

    Raises:
        ValueError: no source states the grid, two sources disagree (the message names both), or it is not square.
    """
    sources = list(_sources(shapes, hints, cls_token_num)) or list(_file_name(hints))
    if not sources:
        raise ValueError(
            f"{hints.file}: the checkpoint does not state the size of its images; give it with --image-size"
        )
    (first, tokens), *others = sources
    for other, value in others:
        if value != tokens:
            raise ValueError(f"{hints.file}: {first} gives {tokens} image tokens, but {other} gives {value}")
    if tokens <= 0 or math.isqrt(tokens) ** 2 != tokens:
        raise ValueError(f"{hints.file}: {first} gives {tokens} image tokens, which is not a square grid")
    return math.isqrt(tokens)


def _sources(shapes: Shapes, hints: Hints, cls_token_num: int) -> Iterator[tuple[str, int]]:
    """Yields (name of a source, number of image tokens by it), the most explicit source first."""
    if hints.image_size is not None:
        yield f"--image-size {hints.image_size}", _image_tokens(hints.image_size, hints.downsample, "--image-size")
    if (block_size := hints.model_args.get("block_size")) is not None:
        name = f"block_size in {hints.args_source}"
        yield name, _positive(block_size, name)
    if {"image_size", "downsample_size"} <= hints.trainer_args.keys():
        yield hints.trainer_source, _trained_image_tokens(hints)
    for name, shape in shapes.items():
        if name.rsplit(".", 1)[-1] == "freqs_cis" and len(shape) == 3:  # [condition + image tokens, head_dim / 2, 2]
            yield name, shape[0] - cls_token_num


def _file_name(hints: Hints) -> Iterator[tuple[str, int]]:
    """Yields the official file name as a source.

    All released networks were trained on 16 pixels per image token, so the name means nothing with another image
    tokenizer.
    """
    match = OFFICIAL_NAME.fullmatch(hints.file.replace("\\", "/").rsplit("/", 1)[-1])
    if match and hints.downsample == 16:
        yield "the file name", _image_tokens(int(match[1]), hints.downsample, "the image size in the file name")


def _trained_image_tokens(hints: Hints) -> int:
    """Number of image tokens by the command line of the official trainer."""
    downsample = _positive(hints.trainer_args["downsample_size"], f"{hints.file}: downsample_size")
    if downsample != hints.downsample:
        raise ValueError(
            f"{hints.file}: trained with an image tokenizer of downsample_size {downsample}, "
            f"the one given has {hints.downsample}"
        )
    name = f"{hints.file}: image_size"
    return _image_tokens(_positive(hints.trainer_args["image_size"], name), downsample, name)


def _image_tokens(image_size: int, downsample: int, name: str) -> int:
    if image_size <= 0 or image_size % downsample:
        raise ValueError(
            f"{name} is {image_size}, must be a positive multiple of {downsample}, "
            "the image tokenizer's downsampling factor"
        )
    return int((image_size // downsample) ** 2)


def _positive(value: object, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise ValueError(f"{name} is {value!r}, must be a positive integer")
    return value
