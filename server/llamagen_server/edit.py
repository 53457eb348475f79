"""Editing by tokens: which codes of an image are drawn anew, and how old and new pixels are put together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from llamagen_server.errors import InvalidRequestError
from llamagen_server.images import center_crop, read_image
from llamagen_server.pipeline import Canvas


@dataclass(frozen=True)
class Edit:
    """An image at the model's size and the pixels to redraw."""

    pixels: NDArray[np.uint8]
    """[side, side, 3]."""
    marked: NDArray[np.bool_]
    """[side, side], True where the picture may change."""

    def canvas(self, codes: list[int], grid_size: int) -> Canvas:
        """Frees every code that has a marked pixel in its patch."""
        patch = self.marked.shape[0] // grid_size
        patches = self.marked.reshape(grid_size, patch, grid_size, patch)
        return Canvas(codes, patches.any(axis=(1, 3)).flatten().tolist())

    def compose(self, drawn: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The drawn pixels where marked, the original ones elsewhere."""
        return np.where(self.marked[:, :, None], drawn, self.pixels)


def read_edit(image: bytes, mask: bytes | None, keep_rows: int | None, side: int, grid_size: int) -> Edit:
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
    if keep_rows is not None:
        if mask is not None:
            raise InvalidRequestError("mask and keep_rows are both given: give one", "keep_rows")
        if not 0 <= keep_rows <= grid_size:
            raise InvalidRequestError(f"keep_rows is {keep_rows}, must be 0 to {grid_size}", "keep_rows")
        marked = np.arange(side)[:, None].repeat(side, 1) >= keep_rows * (side // grid_size)
        return Edit(_pixels(original, side), marked)
    source = original if mask is None else _read(mask, "mask")
    if source.size != original.size:
        raise InvalidRequestError(
            f"mask is {source.width}x{source.height}, must be {original.width}x{original.height} as the image",
            "mask",
        )
    if not source.has_transparency_data:
        message = "the mask has no alpha channel; transparent pixels (alpha 0) are redrawn"
        raise InvalidRequestError(
            message if mask else f"mask is missing, and {message.replace('mask', 'image')}", "mask"
        )
    opaque = center_crop(source.convert("RGBA").getchannel("A").point(lambda alpha: 255 if alpha else 0), side)
    return Edit(_pixels(original, side), np.asarray(opaque) < 128)


def _read(data: bytes, param: str) -> Image.Image:
    try:
        return read_image(data)
    except ValueError as error:
        raise InvalidRequestError(f"{param}: {error}", param) from None


def _pixels(image: Image.Image, side: int) -> NDArray[np.uint8]:
    return np.array(center_crop(image.convert("RGB"), side))
