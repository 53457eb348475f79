"""The user's folder for caches."""

from __future__ import annotations

import os
from pathlib import Path


def cache_home() -> Path | None:
    """Returns the user's folder for caches, which exists then; None if it cannot be written."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    return folder if folder.is_absolute() and is_writable(folder) else None


def is_writable(folder: Path) -> bool:
    """Whether files can be made in a folder. Makes the folder if it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)
