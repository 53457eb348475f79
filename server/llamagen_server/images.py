"""Image files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

OutputFormat = Literal["png", "webp", "jpeg"]


def encode_image(pixels: NDArray[np.uint8], output_format: OutputFormat = "png", quality: int = 95) -> bytes:
    """Pixels [height, width, 3], uint8 -> the bytes of an image file. ``quality`` (0..100) is for webp and jpeg."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, output_format, **({} if output_format == "png" else {"quality": quality}))
    return file.getvalue()


def contact_sheet(pictures: Sequence[NDArray[np.uint8]], columns: int, gap: int = 8) -> NDArray[np.uint8]:
    """Pictures [height, width, 3] of one size, side by side on white, ``gap`` pixels apart."""
    height, width, _ = pictures[0].shape
    rows = -(-len(pictures) // columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 255, np.uint8)
    for i, picture in enumerate(pictures):
        top, left = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        sheet[top : top + height, left : left + width] = picture
    return sheet
