"""Checks and copies the files of a Hugging Face text encoder without loading it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llamagen_server.model_dir.json_file import read_object

TOKENIZER_FILES = ("tokenizer.json", "spiece.model", "vocab.json")
"""File names of a T5 or CLIP tokenizer; one of them suffices."""

OTHER_FRAMEWORKS = ("*.h5", "*.msgpack", "*.ot", "*.onnx", "*.onnx_data", "onnx", ".*")
"""Patterns of files that are not copied: weights of other frameworks, and hidden files."""


def encoder_width(config: Mapping[str, Any]) -> int:
    """Returns the width of the encoder's hidden states; without the field it is 512, the default of T5 and CLIP.

    Args:
        config: content of the encoder's ``config.json``.

    Raises:
        ValueError: the model is neither T5 nor CLIP, or its width is not an integer.
    """
    match config:
        case {"model_type": "t5"}:
            width = config.get("d_model", 512)
        case {"model_type": "clip_text_model"}:
            width = config.get("hidden_size", 512)
        case {"model_type": "clip", "text_config": {**text}}:
            width = text.get("hidden_size", 512)
        case _:
            raise ValueError(f"model_type is {config.get('model_type')!r}, must be 't5', 'clip' or 'clip_text_model'")
    if not isinstance(width, int):
        raise ValueError(f"the text encoder's width is {width!r}, must be an integer")
    return width


def check_encoder(directory: Path, caption_dim: int) -> None:
    """Checks that a directory holds a text encoder with weights, a text tokenizer and hidden states of ``caption_dim``.

    Raises:
        ValueError: it does not; the message names the file and, for a wrong width, both numbers.
    """
    source = directory / "config.json"
    config = read_object(source)
    try:
        width = encoder_width(config)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    if width != caption_dim:
        raise ValueError(f"{source}: the text encoder is {width} wide, the model's caption_dim is {caption_dim}")
    if not any((directory / name).is_file() for name in TOKENIZER_FILES):
        raise ValueError(f"{directory}: no text tokenizer here, expected one of {', '.join(TOKENIZER_FILES)}")
    if not any(directory.glob("*.safetensors")) and not any(directory.glob("pytorch_model*.bin")):
        raise ValueError(f"{directory}: no weights here, expected model.safetensors or pytorch_model.bin")


def copy_encoder(source: Path, target: Path) -> None:
    """Copies a text encoder without the weights of other frameworks and without duplicates of safetensors files."""
    duplicates = ("*.bin",) if any(source.glob("*.safetensors")) else ()
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(*OTHER_FRAMEWORKS, *duplicates))
