"""Tells how many codes an image of a checkpoint has.

The weights do not say: positions are rotary, and the table is usually not in the file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from llamagen_server.model_dir.tensor_files import Shapes

OFFICIAL_NAME = re.compile(r"(?:c2i|t2i)_(?:B|L|XL|XXL|XXXL|1B|3B|7B)(?:_stage\d)?_(256|384|512)\.pt")
"""File names of the released checkpoints end with the image size."""


@dataclass(frozen=True)
class Hints:
    """What is known about a GPT checkpoint besides the shapes of its tensors."""

    file: str
    """Path of the checkpoint."""
    downsample: int
    """Pixels per code along one side, of the image tokenizer."""
    model_args: Mapping[str, Any] = field(default_factory=dict)
    """``--gpt-config``: fields of the official ``ModelArgs``."""
    trainer_args: Mapping[str, Any] = field(default_factory=dict)
    """Command line of the official trainer, as stored in the file."""
    image_size: int | None = None
    """``--image-size``."""


def find_grid(shapes: Shapes, hints: Hints, cls_token_num: int) -> int:
    """Codes per side of the image.

    Raises:
        ValueError: nothing tells the grid, two sources disagree (the message names both), or it is not square.
    """
    sources = list(_sources(shapes, hints, cls_token_num))
    # The released networks all have 16 pixels per code, whatever tokenizer is given beside them.
    if (
        not sources
        and hints.downsample == 16
        and (match := OFFICIAL_NAME.fullmatch(hints.file.replace("\\", "/").rsplit("/", 1)[-1]))
    ):
        sources = [("the file name", _codes(int(match[1]), hints.downsample, "the image size in the file name"))]
    if not sources:
        raise ValueError(f"{hints.file}: the file does not tell the size of its images; give it with --image-size")
    (first, codes), *others = sources
    for other, value in others:
        if value != codes:
            raise ValueError(f"{hints.file}: codes per image are {codes} by {first}, but {value} by {other}")
    if codes <= 0 or math.isqrt(codes) ** 2 != codes:
        raise ValueError(f"{hints.file}: codes per image are {codes} by {first}, which is not a square grid")
    return math.isqrt(codes)


def _sources(shapes: Shapes, hints: Hints, cls_token_num: int) -> Iterator[tuple[str, int]]:
    """Everything that tells the number of codes of an image, the most explicit first."""
    if hints.image_size is not None:
        yield f"--image-size {hints.image_size}", _codes(hints.image_size, hints.downsample, "--image-size")
    if (block_size := hints.model_args.get("block_size")) is not None:
        yield "block_size in --gpt-config", _positive(block_size, "block_size in --gpt-config")
    if {"image_size", "downsample_size"} <= hints.trainer_args.keys():
        yield "the training arguments in the file", _trained_codes(hints)
    for name, shape in shapes.items():
        if name.rsplit(".", 1)[-1] == "freqs_cis" and len(shape) == 3:  # [condition + image tokens, head_dim / 2, 2]
            yield name, shape[0] - cls_token_num


def _trained_codes(hints: Hints) -> int:
    downsample = _positive(hints.trainer_args["downsample_size"], f"{hints.file}: downsample_size")
    if downsample != hints.downsample:
        raise ValueError(
            f"{hints.file}: trained with an image tokenizer of downsample_size {downsample}, "
            f"the one given has {hints.downsample}"
        )
    name = f"{hints.file}: image_size"
    return _codes(_positive(hints.trainer_args["image_size"], name), downsample, name)


def _codes(image_size: int, downsample: int, name: str) -> int:
    if image_size <= 0 or image_size % downsample:
        raise ValueError(f"{name} is {image_size}, must be a positive multiple of {downsample}, the tokenizer's factor")
    return int((image_size // downsample) ** 2)


def _positive(value: object, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise ValueError(f"{name} is {value!r}, must be a positive integer")
    return value
