"""Images in folders, in files of any format."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from llamagen_server.core.results import Pixels
from llamagen_server.engine import cpu
from llamagen_server.evaluation.ordered_threads import in_batches, in_threads
from llamagen_server.evaluation.settings import file_sha256, parse_settings
from llamagen_server.image_files.geometry import center_crop
from llamagen_server.image_files.reading import read_image_file

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"))
PROMPT, SETTINGS = "prompt", "settings"
"""Texts in a PNG file: what the image was generated for, and the settings of the sampler as JSON."""


class ImageFolder:
    """Image files of any format, read in several threads. Without ``side`` they must have one size."""

    def __init__(self, files: Sequence[Path], side: int | None, path: Path) -> None:
        self.files, self.path, self._side = files, path, side
        self.count = len(files)
        if side is None:
            first = _read_image(files[0], None)
            self.size = (first.shape[0], first.shape[1])
        else:
            self.size = (side, side)

    @property
    def resize(self) -> str:
        side = self._side
        return "none" if side is None else f"to {side}x{side}: halved while possible, bicubic, centre crop (ADM's)"

    def batches(self, size: int) -> Iterator[Pixels]:
        for batch in in_batches(in_threads(self._read, self.files, cpu.cores(), 2 * size), size):
            yield np.stack(batch)

    def _read(self, file: Path) -> Pixels:
        pixels = _read_image(file, self._side)
        if pixels.shape[:2] != self.size:
            (height, width), (first_height, first_width) = pixels.shape[:2], self.size
            raise ValueError(
                f"{file}: {width}x{height}, but {self.files[0].name} is {first_width}x{first_height}; "
                "give --image-size to crop and resize"
            )
        return pixels

    def captions(self) -> list[str | None]:
        """Returns the text ``prompt`` of each PNG; None where there is none."""
        return [_png_texts(file).get(PROMPT) for file in self.files]

    def settings(self) -> dict[str, Any]:
        """Returns those of the first image."""
        text = _png_texts(self.files[0]).get(SETTINGS)
        return parse_settings(text, f"{self.files[0]}: settings") if text else {}

    def sha256(self) -> str:
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(f"{file.name}\0{file_sha256(file)}\n".encode())
        return digest.hexdigest()


def find_images(paths: Iterable[Path]) -> list[Path]:
    """Returns image files: those that are given, and those in folders, also further down, by name.

    Raises:
        ValueError: a path does not exist, or there are no images.
    """
    paths = list(paths)
    for path in paths:
        if not path.exists():
            raise ValueError(f"{path} does not exist")
    in_folders = ([path] if path.is_file() else sorted(_images_below(path)) for path in paths)
    files = list(chain.from_iterable(in_folders))
    if not files:
        raise ValueError(f"{', '.join(map(str, paths))}: no images ({', '.join(sorted(SUFFIXES))})")
    return files


def _images_below(folder: Path) -> Iterator[Path]:
    return (file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())


def _read_image(file: Path, side: int | None) -> Pixels:
    try:
        image = read_image_file(file.read_bytes()).convert("RGB")
    except ValueError as error:
        raise ValueError(f"{file} is {error}") from None
    return np.asarray(image if side is None else center_crop(image, side))


def _png_texts(file: Path) -> dict[str, str]:
    """Returns the texts of a PNG file that stand before its pixels."""
    if file.suffix.lower() != ".png":
        return {}
    with Image.open(file, formats=("PNG",)) as image:
        return {str(name): str(value) for name, value in image.info.items() if isinstance(value, str)}
