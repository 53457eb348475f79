"""Writing image files."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from pydantic import BeforeValidator

from llamagen_server.core.results import Pixels

OutputFormat = Literal["png", "webp", "jpeg"]


def _read_format(value: Any) -> Any:
    name = value.strip().lower() if isinstance(value, str) else value
    return "jpeg" if name == "jpg" else name


OutputFormatField = Annotated[OutputFormat, BeforeValidator(_read_format)]
"""An `OutputFormat` in a request; in any case, and ``jpg`` counts as ``jpeg``."""


def make_image_file(
    pixels: Pixels,
    output_format: OutputFormat = "png",
    quality: int = 95,
    size: tuple[int, int] | None = None,
    texts: Mapping[str, str] | None = None,
) -> bytes:
    """Pixels [height, width, 3], uint8 -> the bytes of an image file.

    Args:
        quality: 0 to 100, for webp and jpeg.
        size: width and height of the image in the file: it is scaled with a Lanczos filter until it covers them, and
            cropped to the middle. Default: as the pixels are.
        texts: by their names, for png; they stand before the pixels.
    """
    image, file = Image.fromarray(pixels), io.BytesIO()
    if size is not None and size != image.size:
        image = ImageOps.fit(image, size, Image.Resampling.LANCZOS)
    if output_format == "png":
        info = PngInfo()
        for name, text in (texts or {}).items():
            info.add_text(name, text)
        image.save(file, output_format, pnginfo=info)
    else:
        image.save(file, output_format, quality=quality)
    return file.getvalue()
