"""Where samples go: an ``.npz`` file or a folder of PNG files. Both know which images they have after a crash."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from llamagen_server.core.results import Pixels
from llamagen_server.evaluation.npz_images import NpzImages, npz_writer
from llamagen_server.evaluation.settings import parse_settings
from llamagen_server.image_files.writing import make_image_file

SETTINGS = "settings.json"
CODES = "codes"
BATCH = 256
"""Images that are copied at a time into the finished file."""


class Output(Protocol):
    """A place for the images ``indices`` of a set."""

    def has(self, index: int) -> bool:
        """Whether an image is there."""
        ...

    def write(self, index: int, pixels: Pixels, codes: Sequence[int]) -> None:
        """Stores an image, so that it survives the end of this process."""
        ...

    def finish(self) -> None:
        """Completes the output when all images are there."""
        ...

    def close(self) -> None: ...


class NpzOutput:
    """An ``.npz`` of images, as `evaluation.npz_images.npz_writer` writes it, and of codes [images, tokens], int32.

    Images gather in the folder ``FILE.partial`` until all are there; then the file is written, and the folder removed.
    The file's bytes follow from images and settings alone.
    """

    def __init__(self, path: Path, indices: range, side: int, num_tokens: int, settings: Mapping[str, Any]) -> None:
        """Opens the file, or continues an unfinished one.

        Args:
            indices: the images of the set that go into the file.
            num_tokens: codes of an image; 0 leaves codes out.

        Raises:
            ValueError: the file or its partial folder has images of other settings, or is written by another process;
                or the disk is too full.
        """
        self.path, self.indices, self.settings = path, indices, dict(settings)
        self.partial = path.with_name(path.name + ".partial")
        self.is_finished = path.exists()
        self._open = ExitStack()
        if self.is_finished:
            check_settings(path, NpzImages(path).settings(), self.settings)
            if self.partial.exists():  # by a process that was killed while it removed the folder
                shutil.rmtree(self.partial)
            return
        images, tokens = (len(indices), side, side, 3), (len(indices), num_tokens)
        check_space(path, math.prod(images) + 4 * math.prod(tokens), self.partial)
        self._open.enter_context(locked(self.partial))
        start_or_continue(self.partial, self.settings)
        # The marks come last: where they are, the arrays are.
        self._images = _array(self.partial / "images.npy", images, np.uint8)
        self._codes = _array(self.partial / "codes.npy", tokens, np.int32) if num_tokens else None
        self._marks = _array(self.partial / "marks.npy", (len(indices),), np.bool_)

    def has(self, index: int) -> bool:
        return self.is_finished or bool(self._marks[index - self.indices.start])

    def write(self, index: int, pixels: Pixels, codes: Sequence[int]) -> None:
        row = index - self.indices.start
        self._images[row] = pixels
        if self._codes is not None:
            self._codes[row] = codes
        self._marks[row] = True  # after the image: a process that is killed in between repeats it

    def finish(self) -> None:
        if self.is_finished:
            return
        unfinished = self.partial / self.path.name
        arrays = {} if self._codes is None else {CODES: np.asarray(self._codes)}
        with npz_writer(unfinished, self._images.shape, self.settings, arrays) as add:
            for start in range(0, len(self._images), BATCH):
                add(self._images[start : start + BATCH])
        os.replace(unfinished, self.path)
        self.is_finished = True
        del self._images, self._codes, self._marks
        self.close()
        shutil.rmtree(self.partial)

    def close(self) -> None:
        self._open.close()


class PngOutput:
    """A folder of files ``000123.png``, named by their index in the set, whose texts state prompt and settings.

    ``codes/000123.json`` has the codes of an image, if codes are wanted.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        describe: Callable[[int], tuple[str | None, dict[str, Any]]],
        codes: bool,
    ) -> None:
        """Opens the folder, or continues in it.

        Args:
            settings: those of all images.
            describe: returns prompt and own settings of an image.
            codes: whether codes are stored too.

        Raises:
            ValueError: the folder has images of other settings, or is written by another process.
        """
        self.folder, self.settings, self._describe = folder, dict(settings), describe
        self._codes = folder / CODES if codes else None
        if not (folder / SETTINGS).exists() and any(folder.glob("*.png")):
            raise ValueError(f"{folder} has images without {SETTINGS}: choose an empty folder")
        self._open = ExitStack()
        self._open.enter_context(locked(folder))
        start_or_continue(folder, self.settings)
        if self._codes:
            self._codes.mkdir(exist_ok=True)

    def has(self, index: int) -> bool:
        return self._file(index).exists()

    def write(self, index: int, pixels: Pixels, codes: Sequence[int]) -> None:
        prompt, own = self._describe(index)
        texts = {"settings": json.dumps({**self.settings, **own})}
        if prompt is not None:
            texts = {"prompt": prompt, **texts}
        if self._codes:
            _replace(self._codes / f"{index:06d}.json", json.dumps(list(codes)).encode())
        _replace(self._file(index), make_image_file(pixels, texts=texts))

    def finish(self) -> None:
        pass

    def close(self) -> None:
        self._open.close()

    def _file(self, index: int) -> Path:
        return self.folder / f"{index:06d}.png"


def check_space(path: Path, num_bytes: int, partial: Path) -> None:
    """Raises ValueError if the disk has no room for the file and, while it is written, its images beside it."""
    has = sum(file.stat().st_size for file in partial.glob("*.npy"))
    free = shutil.disk_usage(path.parent).free
    if free < (needed := max(0, 2 * num_bytes - has)):
        raise ValueError(
            f"{path}: {needed / 2**30:.1f} GiB are needed while it is written, {free / 2**30:.1f} are free"
        )


def locked(folder: Path) -> FileLock:
    """Makes a folder and locks it; the lock ends with this process.

    Raises:
        ValueError: another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", mode=0o644)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"{folder}: another process writes samples there") from None
    return lock


def start_or_continue(folder: Path, settings: Mapping[str, Any]) -> None:
    """Writes the settings into an empty folder, or compares them with those that it has.

    Raises:
        ValueError: they differ; the message names the first difference.
    """
    file = folder / SETTINGS
    if file.exists():
        check_settings(folder, parse_settings(file.read_bytes(), str(file)), settings)
    else:
        _replace(file, json.dumps(dict(settings), indent=2).encode())


def check_settings(
    path: Path,
    found: Mapping[str, Any],
    wanted: Mapping[str, Any],
    here: str = "now; remove it or choose another --out",
) -> None:
    """Raises ValueError, which names the first difference, if a file was made with other settings.

    Args:
        here: where the wanted ones are, in the message.
    """
    for name in [*wanted, *found]:
        if found.get(name) != (value := json.loads(json.dumps(wanted.get(name)))):
            raise ValueError(f"{path} has other samples: {name} is {found.get(name)!r} there, {value!r} {here}")


def _array(file: Path, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Opens an array in a file; a new one has zeros, and its place on the disk."""
    if file.exists():
        return np.load(file, mmap_mode="r+")
    unfinished = file.with_suffix(".new")
    array = np.lib.format.open_memmap(unfinished, "w+", dtype, shape)  # type: ignore[no-untyped-call]
    with unfinished.open("r+b") as opened:  # a full disk is an error now, and would be a SIGBUS later
        os.posix_fallocate(opened.fileno(), 0, unfinished.stat().st_size)
    os.replace(unfinished, file)
    return array


def _replace(file: Path, content: bytes) -> None:
    """Writes a file in one piece: it is there as a whole, or not at all."""
    unfinished = file.with_suffix(".new")
    unfinished.write_bytes(content)
    os.replace(unfinished, file)
