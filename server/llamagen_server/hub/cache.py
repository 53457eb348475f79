"""The folder in which official checkpoints and the model directories made from them are kept."""

from __future__ import annotations

import os
from pathlib import Path

from llamagen_server.core.cache_home import cache_home

CACHE = "LLAMAGEN_CACHE"
"""Variable with the folder; by default ``llamagen`` in the user's folder for caches."""


def checkpoints_folder() -> Path:
    """Returns the folder of official files by their own names, downloaded or put there by the user."""
    return _cache_folder() / "checkpoints"


def models_folder() -> Path:
    """Returns the folder of model directories, one per name."""
    return _cache_folder() / "models"


def _cache_folder() -> Path:
    """Returns the folder, which may not exist yet.

    Raises:
        ValueError: there is no folder for caches.
    """
    if given := os.environ.get(CACHE):
        return Path(given).absolute()
    home = cache_home()
    if home is None:
        raise ValueError(f"there is no folder for caches; {CACHE} must name one in which models are kept")
    return home / "llamagen"
