"""A directory that is written completely or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


def make_readable(directory: Path) -> None:
    """Gives weights the mode of the other files; safetensors writes files that only their owner can read."""
    mode = (directory / "config.json").stat().st_mode
    for path in directory.rglob("*.safetensors"):
        path.chmod(mode)


def free_directory(out: Path) -> Path:
    """The absolute path of a directory that may be written.

    Raises:
        ValueError: it is a file, or not empty.
    """
    if out.is_dir() and any(out.iterdir()):
        raise ValueError(f"--out {out}: the directory is not empty")
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out}: is a file")
    return out.resolve()


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A directory beside ``out`` that becomes ``out`` at the end, or is removed if anything fails.

    Raises:
        ValueError: it cannot be written.
    """
    stage = out.parent / f".{out.name}.{os.getpid()}.tmp"
    try:
        stage.mkdir(parents=True)
        yield stage
        stage.rename(out)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"--out {out}: cannot be written ({error})") from None
    finally:
        shutil.rmtree(stage, ignore_errors=True)
