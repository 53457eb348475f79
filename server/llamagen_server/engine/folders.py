"""Folders in which the engine's processes keep what they cache, and the sockets by which they talk.

The usual ones may be unusable: a container's user has no home, or the folder for temporary files has a long name.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from llamagen_server.core.cache_home import cache_home

CACHE_ROOT = "VLLM_CACHE_ROOT"
SOCKETS = "VLLM_RPC_BASE_PATH"
"""Variable with the folder of vLLM's sockets; by default that for temporary files."""

SHORT_FOLDERS = ("/tmp", "/dev/shm")
MAX_SOCKET_PATH = 107
"""Bytes of a socket's path, at most (``man 7 unix``)."""
SOCKET_NAME = len("/00000000-0000-0000-0000-000000000000")


def variables() -> dict[str, str]:
    """Returns variables that name other folders where the usual ones do not work, and none that the user has set.

    Raises:
        ValueError: there is no folder for sockets.
    """
    found = {}
    if CACHE_ROOT not in os.environ and cache_home() is None:
        found[CACHE_ROOT] = str(temporary_cache() / "vllm")
    if SOCKETS not in os.environ and not _is_short(temporary := tempfile.gettempdir()):
        found[SOCKETS] = _short_folder(temporary)
    return found


def temporary_cache() -> Path:
    """Returns torch's own folder for caches, among the temporary files."""
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    return Path(default_cache_dir())


def _short_folder(temporary: str) -> str:
    for folder in SHORT_FOLDERS:
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise ValueError(
        f"the folder for temporary files, {temporary}, has a name that is too long for sockets, and "
        f"{' and '.join(SHORT_FOLDERS)} cannot be written; {SOCKETS} names a folder with a shorter one"
    )


def _is_short(folder: str) -> bool:
    return len(os.fsencode(folder)) + SOCKET_NAME <= MAX_SOCKET_PATH
