"""Writes a directory completely or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


def make_readable(directory: Path) -> None:
    """Gives weights the mode of the other files: safetensors makes files that only their owner can read."""
    mode = (directory / "config.json").stat().st_mode
    for path in directory.rglob("*.safetensors"):
        path.chmod(mode)


def resolve_output(out: Path) -> Path:
    """Returns the absolute path of a directory that does not exist or is empty.

    Raises:
        ValueError: the path is a file, or a directory that is not empty.
    """
    if out.is_dir() and any(out.iterdir()):
        raise ValueError(f"--out {out}: the directory is not empty")
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out}: is a file")
    return out.resolve()


@contextmanager
def atomic_directory(out: Path) -> Iterator[Path]:
    """Yields a temporary directory next to ``out``. It is renamed to ``out`` at the end, or removed if anything fails.

    Raises:
        ValueError: the directory cannot be written.
    """
    temporary = out.parent / f".{out.name}.{os.getpid()}.tmp"
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.rename(out)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"--out {out}: cannot be written ({error})") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
