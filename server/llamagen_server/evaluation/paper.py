"""The authors' figures of official models, beside those of samples."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llamagen_server.hub.catalogue import MODELS, NamedModel

NUM_IMAGES = 50_000
SIDE = 256
"""Side of the images that FID is computed of; those of 384-pixel models are resized to it."""


def find_paper_model(name: str | None) -> str | None:
    """Returns the official model with an FID that a name, or the path of a model's directory, stands for."""
    plain = _plain(Path(name or "").name)
    return next((known for known, model in MODELS.items() if model.fid and _plain(known) == plain), None)


def differences(model: NamedModel, settings: Mapping[str, Any], count: int, size: tuple[int, int]) -> list[str]:
    """States how samples were made in another way than the authors', as far as their settings are known.

    Args:
        size: height and width of the samples in pixels.
    """
    paper = {"cfg_scale": model.cfg_scale, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    notes = [
        f"{name} is {settings[name]}, the paper's {value:g}"
        for name, value in paper.items()
        if value is not None and name in settings and settings[name] != value
    ]
    if count != NUM_IMAGES:
        notes.append(f"{count} images, the paper's figure has {NUM_IMAGES}")
    if size != (SIDE, SIDE):
        notes.append(f"images of {size[1]}x{size[0]} pixels, the paper's figure has {SIDE}x{SIDE}")
    return notes


def _plain(name: str) -> str:
    return name.casefold().replace("_", "-")
