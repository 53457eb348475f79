"""Sets of images in files: a folder, or an ``.npz``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from llamagen_server.core.results import Pixels
from llamagen_server.evaluation.image_folder import ImageFolder, find_images
from llamagen_server.evaluation.npz_images import NpzImages


class ImageSet(Protocol):
    """N images of one size."""

    @property
    def path(self) -> Path: ...

    @property
    def count(self) -> int: ...

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""

    @property
    def resize(self) -> str:
        """How the images are resized when they are read, in words."""

    def batches(self, size: int) -> Iterator[Pixels]:
        """Yields arrays [up to ``size``, height, width, 3], uint8, in order."""

    def settings(self) -> dict[str, Any]:
        """Settings of the sampler, as far as the files state them."""

    def sha256(self) -> str:
        """Checksum of the file, or of the names and contents of a folder's images, in order."""


def open_images(path: Path, side: int | None = None) -> ImageSet:
    """Opens an ``.npz`` file or a folder.

    Args:
        side: crops and resizes the images of a folder to squares of this side, as `center_crop` does.

    Raises:
        ValueError: there are no images, or ``side`` differs from that of the images in an ``.npz``.
    """
    if path.is_dir():
        return ImageFolder(find_images([path]), side, path)
    images = NpzImages(path)
    if side is not None and images.size != (side, side):
        height, width = images.size
        raise ValueError(f"{path}: images are {width}x{height}; --image-size resizes the images of folders only")
    return images
