"""Inpainting: the masked tokens of an image are sampled, and the result is blended into the original pixels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from llamagen_server.core.errors import InvalidRequestError
from llamagen_server.core.options import EditWithoutMask
from llamagen_server.core.results import Pixels
from llamagen_server.image_files.geometry import center_crop, center_crop_mask, is_black_and_white
from llamagen_server.image_files.reading import read_image_file

OPAQUE = 128
"""Alpha from which a pixel is kept. Soft brushes leave values in between."""
HOW_TO_MASK = f"make the pixels to inpaint transparent (alpha below {OPAQUE}), or white in a black and white mask"


@dataclass(frozen=True)
class TokenMask:
    """The tokens of an image, some of them masked: those are sampled, the others kept."""

    codes: list[int]
    """Code of every image token of the original, in raster order."""
    masked: list[bool]
    """True for the tokens that are sampled."""

    @classmethod
    def all_masked(cls, num_tokens: int) -> TokenMask:
        """Returns the mask of an image that is generated from scratch."""
        return cls([0] * num_tokens, [True] * num_tokens)

    @property
    def prefix_tokens(self) -> list[int]:
        """Codes before the first masked token. The engine need not sample them."""
        return self.codes[: self.masked.index(True)] if any(self.masked) else self.codes

    def forced_tokens(self) -> list[int]:
        """Returns the code of each kept token, -1 for the masked ones."""
        return [-1 if masked else code for code, masked in zip(self.codes, self.masked, strict=True)]


@dataclass(frozen=True)
class Inpainting:
    """An image at the model's size, and the pixels to inpaint."""

    pixels: Pixels
    """[side, side, 3]."""
    mask: NDArray[np.bool_]
    """[side, side], True where the image may change."""
    feather: int = 0
    """Width in pixels, inside the mask, over which the original fades into the generated image."""

    def token_mask(self, codes: list[int], grid_size: int) -> TokenMask:
        """Masks every token whose patch holds a masked pixel. ``codes`` are those of ``pixels``."""
        patch = self.mask.shape[0] // grid_size
        patches = self.mask.reshape(grid_size, patch, grid_size, patch)
        return TokenMask(codes, patches.any(axis=(1, 3)).flatten().tolist())

    def compose(self, generated: Pixels) -> Pixels:
        """Blends the generated pixels into the masked region; all others are exactly the original ones."""
        mixed = self.pixels + self._weight[:, :, None] * (generated.astype(np.float32) - self.pixels)
        return np.rint(mixed).astype(np.uint8)

    @cached_property
    def _weight(self) -> NDArray[np.float32]:
        """Weight of the generated image; in regions narrower than the feather the ramp peaks at the centre."""
        if not self.feather or self.mask.all():
            return self.mask.astype(np.float32)
        depth = deepest = torch.from_numpy(_depth(self.mask))[None]
        for _ in range(self.feather):  # the maximum stays within a region: a wide one does not affect a narrow one
            deepest = F.max_pool2d(deepest, 3, 1, 1) * (depth > 0)
        weight: NDArray[np.float32] = (depth / (deepest.clamp(max=self.feather) + 1)).clamp(max=1)[0].numpy()
        return weight


def read_inpainting(
    image: bytes,
    mask: bytes | None,
    keep_rows: int | None,
    feather: int,
    side: int,
    grid_size: int,
    without_mask: EditWithoutMask = "refuse",
) -> Inpainting | None:
    """Reads the files of an edit.

    Args:
        mask: an image as large as ``image`` whose transparent pixels (alpha below 128) are inpainted, as in OpenAI's
            API; in a black and white image without transparency, the white ones are. If omitted, the transparent pixels
            of ``image`` itself are.
        keep_rows: in place of a mask; keeps the top rows of image tokens and inpaints the rest.
        side: pixels per side of the model's images.
        grid_size: image tokens per side.
        without_mask: what happens without mask and ``keep_rows`` if no pixel of ``image`` is transparent: ``refuse``,
            or ``whole`` to inpaint every pixel.

    Returns:
        The image and the pixels to inpaint; None if they are all to be inpainted.

    Raises:
        InvalidRequestError: a file cannot be read, the mask does not fit, or it masks nothing.
    """
    original = _read(image, "image")
    if keep_rows is None:
        masked = _read_mask(original, mask, side, without_mask)
    else:
        if mask is not None:
            raise InvalidRequestError("mask and keep_rows are both given: give one", "keep_rows")
        if not 0 <= keep_rows < grid_size:
            problem = f"keep_rows is {keep_rows}, must be 0 to {grid_size - 1}"
            if keep_rows > 0:
                problem = f"nothing is masked: {problem}; keep fewer rows, or send a mask in their place: {HOW_TO_MASK}"
            raise InvalidRequestError(problem, "keep_rows")
        masked = np.arange(side)[:, None].repeat(side, 1) >= keep_rows * (side // grid_size)
    return None if masked.all() else Inpainting(np.array(center_crop(original.convert("RGB"), side)), masked, feather)


def _read_mask(
    original: Image.Image, file: bytes | None, side: int, without_mask: EditWithoutMask
) -> NDArray[np.bool_]:
    """Returns the pixels to inpaint, [side, side]."""
    mask = original if file is None else _read(file, "mask")
    if mask.size != original.size:
        size = f"{original.width}x{original.height}"
        raise InvalidRequestError(f"mask is {mask.width}x{mask.height}, must be {size} like the image", "mask")
    alpha = np.asarray(mask.getchannel("A")) if mask.mode == "RGBA" else np.full(mask.size[::-1], 255, np.uint8)
    masked = alpha < OPAQUE
    if file is None:
        if not masked.any() and without_mask == "whole":
            return np.ones((side, side), np.bool_)
        problem = "mask and keep_rows are missing, and the image has no transparent pixel"
    elif alpha.min() < 255:
        problem = f"no pixel of the mask is transparent, the lowest alpha is {alpha.min()}"
    elif is_black_and_white(mask):
        masked = np.asarray(mask.convert("L")) >= 128
        problem = "no pixel of the mask is transparent or white"
    else:
        problem = "the mask has no transparent pixel, and is not black and white"
    if masked.any():
        problem = "the masked pixels are all outside the square to which the image is cropped"
    in_crop = center_crop_mask(masked, side)
    if not in_crop.any():
        raise InvalidRequestError(f"nothing is masked: {problem}; {HOW_TO_MASK}", "mask")
    return in_crop


def _depth(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Returns the steps from each pixel to the nearest unmasked one, going up, down, left and right."""
    steps = np.where(mask, np.float32(mask.size), np.float32(0))
    for axis in (0, 1):
        place = np.arange(mask.shape[axis], dtype=np.float32).reshape((-1, 1) if axis == 0 else (1, -1))
        before = np.minimum.accumulate(steps - place, axis) + place
        after = np.flip(np.minimum.accumulate(np.flip(steps + place, axis), axis), axis) - place
        steps = np.minimum(before, after)
    return steps


def _read(data: bytes, param: str) -> Image.Image:
    try:
        return read_image_file(data)
    except ValueError as error:
        raise InvalidRequestError(f"{param} is {error}", param) from None
