"""Reads, writes and searches the names of the classes of a class model."""

from __future__ import annotations

from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from llamagen_server.model_dir.json_file import read_object, write_object

Labels = dict[int, list[str]]
"""Class id -> its names, the usual one first."""

IMAGENET_CLASSES = 1000
MAX_NEAREST = 5
"""Names in the error of an unknown name, at most."""


def read_labels(path: str | Path, num_classes: int) -> Labels:
    """Reads ``{"0": ["tench", "Tinca tinca"], "1": "goldfish", ...}``; classes may be missing.

    Raises:
        ValueError: the file is not a JSON object of that form, or an id is not in 0 to ``num_classes - 1``.
    """
    return {_class_id(key, num_classes, path): _names(key, value, path) for key, value in read_object(path).items()}


def write_labels(path: str | Path, labels: Labels) -> None:
    write_object(path, {str(class_id): names for class_id, names in sorted(labels.items())})


@cache
def imagenet_labels() -> Labels:
    """Returns the names of ImageNet's 1000 classes (ILSVRC 2012): the words of their WordNet 3.0 synsets."""
    return read_labels(Path(__file__).with_name("imagenet_labels.json"), IMAGENET_CLASSES)


def find_class(name: str, labels: Labels) -> int:
    """Returns the class with a name, whatever its case; hyphens and underscores count as spaces.

    A usual name is preferred to a synonym of another class.

    Raises:
        ValueError: no class has the name (the message lists the nearest names), or several have it (it lists them).
    """
    wanted = _plain(name)
    names = {class_id: [_plain(known) for known in known_names] for class_id, known_names in labels.items()}
    found = [class_id for class_id, known in names.items() if wanted in known]
    usual = [class_id for class_id in found if names[class_id][0] == wanted]
    if len(usual or found) == 1:
        return (usual or found)[0]
    if found:
        listed = ", ".join(f"{class_id} ({', '.join(labels[class_id])})" for class_id in usual or found)
        raise ValueError(f"names several classes, give class_id: {listed}")
    near = nearest_names(wanted, [known for known_names in labels.values() for known in known_names])
    raise ValueError("is not a label of this model" + (f"; nearest: {', '.join(near)}" if near else ""))


def search_classes(query: str, labels: Labels) -> Labels:
    """Returns the classes of which one name has all words of a query, or whose id it is; all for an empty query."""
    words = set(_plain(query).split())
    return {
        class_id: names
        for class_id, names in labels.items()
        if words == {str(class_id)} or any(words <= set(_plain(name).split()) for name in names)
    }


def nearest_names(wanted: str, names: list[str]) -> list[str]:
    """Returns up to `MAX_NEAREST` names that contain all words of a text, shortest first, then those spelt like it."""
    plain: dict[str, str] = {}
    for name in names:
        plain.setdefault(_plain(name), name)
    words = set(_plain(wanted).split())
    containing = sorted((known for known in plain if words and words <= set(known.split())), key=len)
    close = get_close_matches(_plain(wanted), plain, n=MAX_NEAREST, cutoff=0.7)
    return [plain[known] for known in dict.fromkeys([*containing, *close])][:MAX_NEAREST]


def _plain(name: str) -> str:
    """Returns the form in which names are compared."""
    return " ".join(name.casefold().replace("-", " ").replace("_", " ").split())


def _class_id(key: str, num_classes: int, path: str | Path) -> int:
    if not (key.isascii() and key.isdigit() and int(key) < num_classes):
        raise ValueError(f"{path}: {key!r} is not a class id, allowed are 0 to {num_classes - 1}")
    return int(key)


def _names(key: str, value: Any, path: str | Path) -> list[str]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names or not all(isinstance(n, str) and n.strip() for n in names):
        raise ValueError(f"{path}: class {key} has {value!r}, expected a name or a list of names")
    return names
