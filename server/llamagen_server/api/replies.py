"""What the replies of several routes have in common."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
from fastapi import Request
from numpy.typing import NDArray
from pydantic import BaseModel

from llamagen_server.core import metrics
from llamagen_server.image_files.files import OutputFormat, encode_image
from llamagen_server.pipeline.pipeline import Result

Pixels = NDArray[np.uint8]


class Usage(BaseModel):
    """Tokens: those of the condition, and the codes of the pictures."""

    input_tokens: int
    output_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, result: Result) -> Usage:
        output = sum(len(picture.codes) for picture in result.pictures)
        return cls(
            input_tokens=result.condition_tokens, output_tokens=output, total_tokens=result.condition_tokens + output
        )


async def encode_file(pixels: Pixels, output_format: OutputFormat, quality: int = 95) -> bytes:
    """An image file, made off the event loop."""
    with metrics.STAGE.labels("file").time():
        return await asyncio.to_thread(encode_image, pixels, output_format, quality)


async def encode_files(result: Result, output_format: OutputFormat, quality: int = 95) -> Sequence[bytes]:
    """The pictures as files; their time is noted in the result."""
    start = time.perf_counter()
    files = await asyncio.gather(*(encode_file(p.pixels, output_format, quality) for p in result.pictures))
    result.timings.file_ms = (time.perf_counter() - start) * 1000
    return files


def b64(file: bytes) -> str:
    return base64.b64encode(file).decode()


def timings(request: Request, result: Result) -> dict[str, float]:
    """Milliseconds by stage, and from the arrival of the request until now."""
    result.timings.total_ms = (time.perf_counter() - request.state.start) * 1000
    return {name: round(value, 2) for name, value in asdict(result.timings).items()}
