"""Images in tests: PNG bytes, the base64 text of JSON replies, noise."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from llamagen_server.core.results import Pixels


def png(image: Image.Image) -> bytes:
    """The image as a PNG file."""
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()


def b64_png(image: Image.Image) -> str:
    """The image as a PNG file in base64."""
    return base64.b64encode(png(image)).decode()


def read_b64(text: str) -> Image.Image:
    """The image in a base64-encoded image file of any format."""
    return Image.open(io.BytesIO(base64.b64decode(text)))


def noise(count: int, height: int, width: int, seed: int = 0) -> Pixels:
    """Images of smooth noise [count, height, width, 3]."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3), np.uint8)
    images = [Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR) for image in coarse]
    return np.stack([np.asarray(image) for image in images])
