"""Image files."""

from __future__ import annotations

import io
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
