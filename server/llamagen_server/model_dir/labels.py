"""Reads and writes ``labels.json``, the names of the classes of a class model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llamagen_server.model_dir.json_file import read_object, write_object

Labels = dict[int, list[str]]
"""Class id -> its names, the usual one first."""


def read_labels(path: str | Path, num_classes: int) -> Labels:
    """Reads ``{"0": ["tench", "Tinca tinca"], "1": "goldfish", ...}``; classes may be missing.

    Raises:
        ValueError: the file is not a JSON object of that form, or an id is not in 0 to ``num_classes - 1``.
    """
    return {_class_id(key, num_classes, path): _names(key, value, path) for key, value in read_object(path).items()}


def write_labels(path: str | Path, labels: Labels) -> None:
    write_object(path, {str(class_id): names for class_id, names in sorted(labels.items())})


def _class_id(key: str, num_classes: int, path: str | Path) -> int:
    if not (key.isascii() and key.isdigit() and int(key) < num_classes):
        raise ValueError(f"{path}: {key!r} is not a class id, allowed are 0 to {num_classes - 1}")
    return int(key)


def _names(key: str, value: Any, path: str | Path) -> list[str]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names or not all(isinstance(n, str) and n.strip() for n in names):
        raise ValueError(f"{path}: class {key} has {value!r}, expected a name or a list of names")
    return names
