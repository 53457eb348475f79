"""Reads image files of any common format, depth and colour mode as 8-bit RGB or RGBA."""

from __future__ import annotations

import asyncio
import base64
import io
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps, features

T = TypeVar("T")

MAX_PIXELS = 64 * 2**20
"""Largest image that is read: a small file can unpack to far more memory than a server has."""
MAX_ASPECT = 16
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", *(("AVIF",) if features.check("avif") else ()))
"""Formats that are read. Pillow knows more, some of which run other programs."""
UNREADABLE = f"not an image file that can be read ({', '.join(FORMATS)})"

_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_METADATA = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
"""Chunks with texts and colour profiles. Pillow refuses the whole file if one of them is large or damaged."""


def decode_base64(text: str) -> bytes:
    """Decodes base64 in either alphabet (``+/`` or ``-_``), with or without padding and line breaks.

    Raises:
        ValueError: it is something else; completes the sentence "image is ...".
    """
    plain = "".join(text.split()).rstrip("=").translate(str.maketrans("-_", "+/"))
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except ValueError:
        raise ValueError("not valid base64") from None


def read_image_file(data: bytes) -> Image.Image:
    """Reads an image file of one of `FORMATS`: the first frame of an animation, upright as its EXIF data ask for.

    Faults of metadata do not matter. More than 8 bits per channel are scaled to 8.

    Returns:
        The image in the mode RGBA if the file has transparency, else in RGB.

    Raises:
        ValueError: the file cannot be read, or is too large or too narrow; completes the sentence "image is ...".
    """
    if not data:
        raise ValueError("an empty file")
    with warnings.catch_warnings():  # another thread may leave the filter behind, which does no harm
        warnings.filterwarnings("ignore", module=r"PIL\.")  # about metadata; the log belongs to this server
        return _read(_without_png_metadata(data))


def _read(data: bytes) -> Image.Image:
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise ValueError(f"too large, at most {MAX_PIXELS} pixels are allowed") from None
    except Exception:
        raise ValueError(UNREADABLE) from None
    short, long = sorted(image.size)
    if short * long > MAX_PIXELS:
        raise ValueError(f"{image.width}x{image.height}, at most {MAX_PIXELS} pixels are allowed")
    if long > MAX_ASPECT * short:
        raise ValueError(f"{image.width}x{image.height}, one side may be at most {MAX_ASPECT} times the other")
    try:
        image.load()
        with suppress(Exception):  # damaged EXIF data
            image = ImageOps.exif_transpose(image)
        return _in_8_bits(image)
    except Exception:  # a damaged file can raise almost anything in Pillow
        raise ValueError(UNREADABLE) from None


def _in_8_bits(image: Image.Image) -> Image.Image:
    """Returns the image as RGBA or RGB. Pillow itself would cut off what is above 255, and so turn it white."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, np.float32)
        white = _white(values[np.isfinite(values)].max(initial=0), image.mode)
        values = np.clip(np.nan_to_num(values, posinf=white, neginf=0), 0, white)
        image = Image.fromarray(np.rint(values * (255 / white)).astype(np.uint8))
    if image.mode in ("La", "RGBa"):  # colours that are multiplied by alpha
        image = image.convert("RGBA" if image.mode == "RGBa" else "LA")
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _white(largest: float, mode: str) -> float:
    """Returns the value that stands for white: the smallest full scale that holds the largest value.

    A mode of 16 bits states it.
    """
    if mode.startswith("I;16"):
        return 65535
    scales = (1, 255, 65535) if mode == "F" else (255, 65535)
    return next((scale for scale in scales if largest <= scale), largest)


def _without_png_metadata(data: bytes) -> bytes:
    """Drops the chunks of `_PNG_METADATA` from a PNG file; other files stay as they are."""
    if not data.startswith(_PNG_START):
        return data
    kept, position = [_PNG_START], len(_PNG_START)
    while position < len(data):  # length, kind, content, checksum
        end = position + 12 + int.from_bytes(data[position : position + 4])
        if data[position + 4 : position + 8] not in _PNG_METADATA:
            kept.append(data[position:end])
        position = end
    return b"".join(kept)


_reader = ThreadPoolExecutor(2, thread_name_prefix="read-image")


async def run_in_reader_thread(read: Callable[[], T]) -> T:
    """Runs ``read``, which reads image files, off the event loop. Two run at a time: each takes memory and seconds."""
    return await asyncio.get_running_loop().run_in_executor(_reader, read)
