"""Editing by tokens: which codes of an image are drawn anew, and how old and new pixels are put together."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from llamagen_server.core.errors import InvalidRequestError
from llamagen_server.image_files.files import center_crop, center_crop_any, read_image


@dataclass(frozen=True)
class Canvas:
    """An image of which some codes are kept and the others drawn anew."""

    codes: list[int]
    """All codes in raster order; those that are free count as a hint of what was there."""
    free: list[bool]

    @property
    def num_known(self) -> int:
        """Codes before the first free one: the engine need not sample them."""
        return self.free.index(True) if any(self.free) else len(self.free)

    def forced(self) -> list[int]:
        return [-1 if free else code for code, free in zip(self.codes, self.free, strict=True)]


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
        mixed = self.pixels + self._share[:, :, None] * (drawn.astype(np.float32) - self.pixels)
        return np.rint(mixed).astype(np.uint8)

    @cached_property
    def _share(self) -> NDArray[np.float32]:
        """Of what is drawn, by pixel. In a region narrower than the feather it rises to the middle of it."""
        if not self.feather or self.marked.all():
            return self.marked.astype(np.float32)
        depth = deepest = torch.from_numpy(_depth(self.marked))[None]
        for _ in range(self.feather):  # within the region, so that a thick one does not count for a thin one beside it
            deepest = F.max_pool2d(deepest, 3, 1, 1) * (depth > 0)
        share: NDArray[np.float32] = (depth / (deepest.clamp(max=self.feather) + 1)).clamp(max=1)[0].numpy()
        return share


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
