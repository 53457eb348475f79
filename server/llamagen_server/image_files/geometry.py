"""Resizing and cropping images and masks to the model's square size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops


def center_crop(image: Image.Image, side: int) -> Image.Image:
    """Resizes and crops to a square, as the official evaluation does (``center_crop_arr``, after guided-diffusion).

    Halves by averaging as long as the shorter side is at least twice ``side``, resizes the rest of the way with a
    bicubic filter and crops to the middle.
    """
    while min(image.size) >= 2 * side:
        image = image.resize(_half(image.size), Image.Resampling.BOX)
    width, height, left, top = _fit(image.size, side)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    return image.crop((left, top, left + side, top + side))


def center_crop_mask(mask: NDArray[np.bool_], side: int) -> NDArray[np.bool_]:
    """Crops a mask [height, width] as `center_crop` crops its image; True where any pixel beneath is True."""
    rows, columns = mask.shape
    width, height, left, top = _fit((columns, rows), side)
    columns, rows = columns / width, rows / height
    box = (left * columns, top * rows, (left + side) * columns, (top + side) * rows)
    share = Image.fromarray(mask.astype(np.float32)).resize((side, side), Image.Resampling.BOX, box)
    return np.asarray(share) > 1e-6


def is_black_and_white(image: Image.Image) -> bool:
    """Whether an image is drawn in black and white: at most a tenth of its pixels, as on soft edges, is in between."""
    red, green, blue = image.convert("RGB").split()
    largest = ImageChops.lighter(ImageChops.lighter(red, green), blue)
    smallest = ImageChops.darker(ImageChops.darker(red, green), blue)
    black, white = sum(largest.histogram()[:32]), sum(smallest.histogram()[224:])
    return black + white >= 0.9 * image.width * image.height


def _half(size: tuple[int, int]) -> tuple[int, int]:
    return size[0] // 2, size[1] // 2


def _fit(size: tuple[int, int], side: int) -> tuple[int, int, int, int]:
    """Returns width and height before the crop of `center_crop`, then left and top of the crop."""
    while min(size) >= 2 * side:
        size = _half(size)
    width, height = (max(side, round(length * side / min(size))) for length in size)
    return width, height, (width - side) // 2, (height - side) // 2
