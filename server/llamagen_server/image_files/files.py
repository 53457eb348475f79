"""Image files."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

T = TypeVar("T")

OutputFormat = Literal["png", "webp", "jpeg"]
MAX_PIXELS = 64 * 2**20
"""Largest image that is read: a small file can unpack to far more memory than a server has."""
MAX_ASPECT = 16
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""What clients may send. Pillow knows more, some of which run other programs."""
UNREADABLE = f"not an image file that can be read ({', '.join(FORMATS)})"


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


_reader = ThreadPoolExecutor(2, thread_name_prefix="read-image")


async def in_reader(read: Callable[[], T]) -> T:
    """Runs what reads large images off the event loop, two at a time: they take memory, and seconds."""
    return await asyncio.get_running_loop().run_in_executor(_reader, read)


def read_image(data: bytes) -> Image.Image:
    """Reads an image file of one of FORMATS; its alpha channel is kept, its EXIF rotation applied.

    Raises:
        ValueError: it is no image, too large or too narrow; completes the sentence "image is ...".
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


def center_crop(image: Image.Image, side: int) -> Image.Image:
    """Resizes and crops to a square, as the official evaluation does (``center_crop_arr``, after guided-diffusion).

    Halves by averaging as long as the shorter side is at least twice ``side``, resizes the rest of the way with a
    bicubic filter and takes the middle.
    """
    while min(image.size) >= 2 * side:
        image = image.resize(_half(image.size), Image.Resampling.BOX)
    width, height, left, top = _fit(image.size, side)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    return image.crop((left, top, left + side, top + side))


def center_crop_any(marked: NDArray[np.bool_], side: int) -> NDArray[np.bool_]:
    """A mask [height, width] cropped as `center_crop` crops its image; True where any pixel under it is."""
    rows, columns = marked.shape
    width, height, left, top = _fit((columns, rows), side)
    columns, rows = columns / width, rows / height
    box = (left * columns, top * rows, (left + side) * columns, (top + side) * rows)
    share = Image.fromarray(marked.astype(np.float32)).resize((side, side), Image.Resampling.BOX, box)
    return np.asarray(share) > 1e-6


def _half(size: tuple[int, int]) -> tuple[int, int]:
    return size[0] // 2, size[1] // 2


def _fit(size: tuple[int, int], side: int) -> tuple[int, int, int, int]:
    """Width and height of what `center_crop` crops, as halved as it is; left and top of the square in the middle."""
    while min(size) >= 2 * side:
        size = _half(size)
    width, height = (max(side, round(length * side / min(size))) for length in size)
    return width, height, (width - side) // 2, (height - side) // 2
