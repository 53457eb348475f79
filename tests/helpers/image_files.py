"""Image files in tests: PNG bytes, and the base64 text of JSON replies."""

from __future__ import annotations

import base64
import io

from PIL import Image


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
