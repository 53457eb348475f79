"""Reads image files of any common format, depth and colour mode as 8-bit RGB or RGBA."""

from __future__ import annotations

import asyncio
import base64
import io
import re
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, TiffImagePlugin, features

T = TypeVar("T")

MAX_PIXELS = 64 * 2**20
"""Largest image that is read: a small file can unpack to far more memory than a server has."""
MAX_ASPECT = 16
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", *(("AVIF",) if features.check("avif") else ()))
"""Formats that are read. Pillow knows more, some of which run other programs."""
UNREADABLE = f"not an image file that can be read ({', '.join(FORMATS)})"
UNSUPPORTED_TIFF = (
    "a TIFF file of unsupported pixels, such as floating-point colours or 64 bits: save it with 8 or 16 bits"
)

_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
"""Chunks that the pixels depend on. Pillow refuses the whole file if any other is large or damaged."""
MAX_PNG_CHUNKS = 100_000
"""A file of 64 MiB could have five million, and hold up others for half a minute."""
ROWS = 256
"""Rows that are scaled at a time, to save memory."""
DATA_URL = re.compile(r"data:[^,]*;base64,", re.IGNORECASE)
"""The start of a data URL."""


def decode_base64(text: str) -> bytes:
    """Decodes base64 in either alphabet (``+/`` or ``-_``), with or without padding, line breaks and ``%2B`` for ``+``.

    Raises:
        ValueError: it is something else; completes the sentence "image is ...".
    """
    plain = "".join(unquote(text).split()).rstrip("=").translate(str.maketrans("-_", "+/"))
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except ValueError:
        raise ValueError("not valid base64") from None


def read_image_file(data: bytes) -> Image.Image:
    """Reads an image file of one of `FORMATS`: the first frame of an animation, upright as its EXIF data ask for.

    Faults of metadata do not matter. Pillow may warn of them, unless `logs.ignore_warnings_about_files` was called.
    More than 8 bits per channel are scaled to 8, see `_white`.

    Returns:
        The image in the mode RGBA if the file has transparency, else in RGB.

    Raises:
        ValueError: the file cannot be read, or is too large or too narrow; completes the sentence "image is ...".
    """
    if not data:
        raise ValueError("an empty file")
    data = _png_pixels(data)
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise ValueError(f"too large, at most {MAX_PIXELS} pixels are allowed") from None
    except Exception:
        raise ValueError(UNSUPPORTED_TIFF if _is_unsupported_tiff(data) else UNREADABLE) from None
    short, long = sorted(image.size)
    if short * long > MAX_PIXELS:
        raise ValueError(f"{image.width}x{image.height}, at most {MAX_PIXELS} pixels are allowed")
    if long > MAX_ASPECT * short:
        raise ValueError(f"{image.width}x{image.height}, one side may be at most {MAX_ASPECT} times the other")
    try:
        image.load()
        scales = _full_scales(image)
        with suppress(Exception):  # damaged EXIF data
            image = ImageOps.exif_transpose(image)
        return _in_8_bits(image, scales)
    except Exception:  # a damaged file can raise almost anything in Pillow
        raise ValueError(UNREADABLE) from None


def _is_unsupported_tiff(data: bytes) -> bool:
    """Whether Pillow knows the format of a file, and not that of its pixels; `Image.open` does not tell."""
    try:
        TiffImagePlugin.TiffImageFile(io.BytesIO(data))
    except Exception as error:
        return str(error) == "unknown pixel mode"
    return False


def _full_scales(image: Image.Image) -> tuple[int, ...]:
    """Returns the values that may stand for white in an image of more than 8 bits, the smallest first."""
    if image.mode.startswith("I;16"):
        return (65535,)
    if image.mode == "F":
        return (1, 255, 65535)
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    return (255, 32767 if tags.get(TiffImagePlugin.BITSPERSAMPLE) == (16,) else 65535)


def _in_8_bits(image: Image.Image, scales: tuple[int, ...]) -> Image.Image:
    """Returns the image as RGBA or RGB. Pillow itself would cut off what is above 255, and so turn it white."""
    transparent = image.info.get("transparency")  # a grey level, a colour or indices
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        strips = [values[row : row + ROWS] for row in range(0, len(values), ROWS)]
        white = _white(strips, scales)
        image = Image.fromarray(np.concatenate([_scaled(strip, white) for strip in strips]))
        if transparent is not None:
            image.putalpha(Image.fromarray(np.where(values == transparent, np.uint8(0), np.uint8(255))))
    elif isinstance(transparent, tuple) and max(transparent) > 255:  # of 16 bits, of which Pillow has made 8
        image.info["transparency"] = tuple(value >> 8 for value in transparent)
    if image.mode in ("La", "RGBa"):  # colours that are multiplied by alpha
        image = image.convert("RGBA" if image.mode == "RGBa" else "LA")
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _scaled(values: NDArray[Any], white: float) -> NDArray[np.uint8]:
    """Scales values from 0 to ``white`` to 0 to 255."""
    clean = np.clip(np.nan_to_num(values.astype(np.float32), posinf=white, neginf=0), 0, white)
    return np.rint(clean * (255 / white)).astype(np.uint8)


def _white(strips: Sequence[NDArray[Any]], scales: tuple[int, ...]) -> float:
    """Returns the value that stands for white: the smallest full scale that fits, else the largest value.

    A scale fits unless more than 1 % of the values exceed it twofold: highlights, and what filters add at edges, must
    not turn an image black.
    """
    few = sum(strip.size for strip in strips) / 100
    for scale in scales:
        if sum(np.count_nonzero(strip > 2 * scale) for strip in strips) <= few:
            return scale
    return max(float(strip[np.isfinite(strip)].max(initial=0)) for strip in strips)


def _png_pixels(data: bytes) -> bytes:
    """Returns a PNG file with the chunks of `_PNG_PIXELS` and sound EXIF data alone; other files stay as they are."""
    if not data.startswith(_PNG_START):
        return data
    kept, position = [_PNG_START], len(_PNG_START)
    for _ in range(MAX_PNG_CHUNKS):
        if position >= len(data):
            return b"".join(kept)
        end = position + 12 + int.from_bytes(data[position : position + 4])  # length, kind, content, checksum
        kind, checksum = data[position + 4 : position + 8], data[end - 4 : end]
        is_sound = kind == b"eXIf" and zlib.crc32(data[position + 4 : end - 4]) == int.from_bytes(checksum)
        if kind in _PNG_PIXELS or is_sound:
            kept.append(data[position:end])
        position = end
    raise ValueError(f"a PNG file of more than {MAX_PNG_CHUNKS} chunks")


_reader = ThreadPoolExecutor(2, thread_name_prefix="read-image")


async def run_in_reader_thread(read: Callable[[], T]) -> T:
    """Runs ``read``, which reads image files, off the event loop. Two run at a time: each takes memory and seconds."""
    return await asyncio.get_running_loop().run_in_executor(_reader, read)
