"""Editing by tokens: which codes of an image are drawn anew, and how old and new pixels are put together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from llamagen_server.errors import InvalidRequestError
from llamagen_server.images import center_crop, center_crop_any, read_image
from llamagen_server.pipeline import Canvas


@dataclass(frozen=True)
class Edit:
    """An image at the model's size and the pixels to redraw."""

    pixels: NDArray[np.uint8]
    """[side, side, 3]."""
    marked: NDArray[np.bool_]
    """[side, side], True where the picture may change."""
    feather: int = 0
    """Pixels inside the marked region over which the original fades into what is drawn."""

    def canvas(self, codes: list[int], grid_size: int) -> Canvas:
        """Frees every code that has a marked pixel in its patch."""
        patch = self.marked.shape[0] // grid_size
        patches = self.marked.reshape(grid_size, patch, grid_size, patch)
        return Canvas(codes, patches.any(axis=(1, 3)).flatten().tolist())

    def compose(self, drawn: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The drawn pixels where marked, exactly the original ones elsewhere."""
        share = self.marked.astype(np.float32)
        if self.feather and not self.marked.all():
            depth = _depth(self.marked)
            share = np.minimum(depth / (min(self.feather, depth.max()) + 1), 1.0)
        mixed = self.pixels + share[:, :, None] * (drawn.astype(np.float32) - self.pixels)
        return np.rint(mixed).astype(np.uint8)


def read_edit(image: bytes, mask: bytes | None, keep_rows: int | None, feather: int, side: int, grid_size: int) -> Edit:
    """Reads what is to be edited.

    Args:
        mask: an image as large as ``image`` whose transparent pixels (alpha 0) are redrawn, as in OpenAI's API. Without
            it the transparent pixels of ``image`` itself are.
        keep_rows: instead of a mask, keeps the top rows of the grid of codes and draws the rest.
        side: of the model's images, in pixels.

    Raises:
        InvalidRequestError: a file cannot be read, or the mask does not fit.
    """
    original = _read(image, "image")
    pixels = np.array(center_crop(original.convert("RGB"), side))
    if keep_rows is None:
        return Edit(pixels, _marked(original, mask, side), feather)
    if mask is not None:
        raise InvalidRequestError("mask and keep_rows are both given: give one", "keep_rows")
    if not 0 <= keep_rows <= grid_size:
        raise InvalidRequestError(f"keep_rows is {keep_rows}, must be 0 to {grid_size}", "keep_rows")
    below = np.arange(side)[:, None].repeat(side, 1) >= keep_rows * (side // grid_size)
    return Edit(pixels, below, feather)


def _marked(original: Image.Image, mask: bytes | None, side: int) -> NDArray[np.bool_]:
    source, name = (original, "image") if mask is None else (_read(mask, "mask"), "mask")
    if source.size != original.size:
        size = f"{original.width}x{original.height}"
        raise InvalidRequestError(f"mask is {source.width}x{source.height}, must be {size} as the image", "mask")
    if not source.has_transparency_data:
        either = "" if mask else "mask and keep_rows are missing, and "
        message = f"{either}the {name} has no alpha channel: its transparent pixels (alpha 0) would be redrawn"
        raise InvalidRequestError(message, "mask")
    return center_crop_any(np.asarray(source.convert("RGBA").getchannel("A")) == 0, side)


def _depth(marked: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Steps from each pixel to the nearest unmarked one, up, down, left and right."""
    steps = np.where(marked, np.float32(marked.size), np.float32(0))
    for axis in (0, 1):
        place = np.arange(marked.shape[axis], dtype=np.float32).reshape((-1, 1) if axis == 0 else (1, -1))
        before = np.minimum.accumulate(steps - place, axis) + place
        after = np.flip(np.minimum.accumulate(np.flip(steps + place, axis), axis), axis) - place
        steps = np.minimum(before, after)
    return steps


def _read(data: bytes, param: str) -> Image.Image:
    try:
        return read_image(data)
    except ValueError as error:
        raise InvalidRequestError(f"{param} is {error}", param) from None
