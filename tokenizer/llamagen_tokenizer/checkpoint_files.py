"""Opens files of weights, torch's or safetensors, without running code from them."""

from __future__ import annotations

import json
import os
import pickle
import re
import shlex
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from llamagen_tokenizer.file_kinds import INCOMPLETE, is_safetensors, is_zip, problem_of
from llamagen_tokenizer.stand_ins import HARMLESS

WEIGHT_ENTRIES = ("model", "module", "state_dict")
"""Entries of a checkpoint that may hold the trained weights, in the official order: DDP's, DeepSpeed's, Lightning's."""

EMA_ENTRY = "ema"
"""Entry with the moving average of the weights."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file and the fault."""


def load_checkpoint(path: str | Path) -> Mapping[str, object]:
    """Reads a checkpoint in the format that its content shows, or that the suffix ``.safetensors`` states.

    Nothing in the file is run. Tensors are memory-mapped, except those of a torch file from before torch 1.6.

    Returns:
        What the trainer stored, usually a state dict or entries of which one is a state dict.

    Raises:
        CheckpointError: the file is missing, damaged or no checkpoint, or loading it would run code.
    """
    path = Path(path)
    check_file(path)
    if is_safetensors(path) or path.suffix == ".safetensors":  # torch also goes by this suffix
        return load_safetensors(path)
    return _load_torch(path)


def load_safetensors(path: str | Path) -> dict[str, Tensor]:
    """Reads all tensors of a safetensors file; they are memory-mapped.

    ``safetensors.torch.save_model`` stores a tensor with several names once and states the other names in the
    metadata; they are restored.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    path = Path(path)
    check_file(path)
    try:
        with safe_open(path, "pt") as file:
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        damaged = f"damaged or not a safetensors file ({error})"
        raise CheckpointError(
            f"{path}: {'a torch file, rename it to end in .pt' if is_zip(path) else damaged}"
        ) from None
    return {name: tensors[stored] for name, stored in metadata.items() if stored in tensors} | tensors


def check_file(path: Path) -> None:
    """Raises `CheckpointError` if there is no readable file, or one that cannot hold weights."""
    try:
        problem = problem_of(path)
    except FileNotFoundError:
        problem = f"a link to {os.readlink(path)}, which is missing" if path.is_symlink() else "no such file"
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
    if problem:
        raise CheckpointError(f"{path}: {problem}")


def _load_torch(path: Path) -> Mapping[str, object]:
    try:
        with torch.serialization.safe_globals(HARMLESS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the version of the pickle
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip(path))
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path}: {_refusal(path, str(error))}") from None
    except Exception as error:  # on damaged data the unpickler raises errors of any kind
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        cut_off = "EOF" in reason or isinstance(error, struct.error)
        problem = INCOMPLETE if cut_off else f"damaged or not a torch checkpoint ({reason})"
        raise CheckpointError(f"{path}: {problem}") from None
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, expected a state dict")
    return content


def _refusal(path: Path, error: str) -> str:
    """Describes why torch's weights-only unpickler refused a file, and how to save the weights alone."""
    refused = re.search(r"GLOBAL ([\w.]+)", error)
    name = refused[1] if refused else ""
    if name.startswith("torch.distributed") or "DTensor" in error:
        return "holds the shards of one process (DTensor or ShardedTensor); save the full state dict in training"
    reason = f"it holds a {name}" if name else "weights-only loading refuses it"
    return (
        f"not a checkpoint of plain tensors ({reason}); if you trust the file, for this runs code from it, "
        f"save the weights alone: {_resave_command(path)}"
    )


def _resave_command(path: Path) -> str:
    """Returns a shell command that writes the tensors of a torch checkpoint, in their entries, to a new file."""
    source = json.dumps(str(path), ensure_ascii=False)
    target = json.dumps(str(path.with_name(f"{path.stem}-weights.pt")), ensure_ascii=False)
    code = (
        "import torch; t = torch.is_tensor; "
        'w = lambda c: {k: v if t(v) else w(v) for k, v in getattr(c, "state_dict", lambda: c)().items() '
        'if t(v) or isinstance(v, dict) or hasattr(v, "state_dict")}; '
        f'torch.save(w(torch.load({source}, map_location="cpu", weights_only=False)), {target})'
    )
    return f"python -c {shlex.quote(code)}"
