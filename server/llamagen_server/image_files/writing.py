"""Reading and writing image files."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, TypeVar

from PIL import Image, ImageOps

from llamagen_server.core.results import Pixels

T = TypeVar("T")

OutputFormat = Literal["png", "webp", "jpeg"]
MAX_PIXELS = 64 * 2**20
"""Largest image that is read: a small file can unpack to far more memory than a server has."""
MAX_ASPECT = 16
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""Formats that are read. Pillow knows more, some of which run other programs."""
UNREADABLE = f"not an image file that can be read ({', '.join(FORMATS)})"


def make_image_file(pixels: Pixels, output_format: OutputFormat = "png", quality: int = 95) -> bytes:
    """Pixels [height, width, 3], uint8 -> the bytes of an image file. ``quality`` (0 to 100) is for webp and jpeg."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, output_format, **({} if output_format == "png" else {"quality": quality}))
    return file.getvalue()


def read_image_file(data: bytes) -> Image.Image:
    """Reads an image file of one of `FORMATS`; keeps its alpha channel, applies its EXIF rotation.

    Raises:
        ValueError: the file cannot be read, or is too large or too narrow; completes the sentence "image is ...".
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception:
        raise ValueError(UNREADABLE) from None
    short, long = sorted(image.size)
    if short * long > MAX_PIXELS:
        raise ValueError(f"{image.width}x{image.height}, at most {MAX_PIXELS} pixels are allowed")
    if long > MAX_ASPECT * short:
        raise ValueError(f"{image.width}x{image.height}, one side may be at most {MAX_ASPECT} times the other")
    try:
        image.load()
        return ImageOps.exif_transpose(image)
    except Exception:  # a damaged file can raise almost anything in Pillow
        raise ValueError(UNREADABLE) from None


_reader = ThreadPoolExecutor(2, thread_name_prefix="read-image")


async def run_in_reader_thread(read: Callable[[], T]) -> T:
    """Runs ``read``, which reads image files, off the event loop. Two run at a time: each takes memory and seconds."""
    return await asyncio.get_running_loop().run_in_executor(_reader, read)
