"""Parts that the replies of several routes share: image files, token usage, timings."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Sequence
from dataclasses import asdict

from fastapi import Request
from pydantic import BaseModel

from llamagen_server.core import telemetry
from llamagen_server.core.results import GenerationResult, Pixels
from llamagen_server.image_files.writing import OutputFormat, make_image_file


class Usage(BaseModel):
    """Token counts: input is the condition, output the image tokens."""

    input_tokens: int
    output_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, result: GenerationResult) -> Usage:
        output = sum(len(image.codes) for image in result.images)
        return cls(
            input_tokens=result.condition_tokens, output_tokens=output, total_tokens=result.condition_tokens + output
        )


async def image_file(
    pixels: Pixels, output_format: OutputFormat, quality: int = 95, size: tuple[int, int] | None = None
) -> bytes:
    """Returns the bytes of an image file, made off the event loop; the arguments are those of `make_image_file`."""
    with telemetry.stage("file"):
        return await asyncio.to_thread(make_image_file, pixels, output_format, quality, size)


async def image_files(
    result: GenerationResult, output_format: OutputFormat, quality: int = 95, size: tuple[int, int] | None = None
) -> Sequence[bytes]:
    """Returns the result's images as files, and adds their time to the result."""
    start = time.perf_counter()
    files = await asyncio.gather(*(image_file(image.pixels, output_format, quality, size) for image in result.images))
    result.timings.file_ms = (time.perf_counter() - start) * 1000
    return files


def b64(file: bytes) -> str:
    return base64.b64encode(file).decode()


def timings(request: Request, result: GenerationResult) -> dict[str, float]:
    """Returns milliseconds by stage, and from the arrival of the request until now."""
    result.timings.total_ms = (time.perf_counter() - request.state.start) * 1000
    return {name: round(value, 2) for name, value in asdict(result.timings).items()}
