"""``POST /generate``: our own API, with everything the model can do."""

from __future__ import annotations

import asyncio
import base64
import time
from dataclasses import asdict
from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from llamagen_server.api.disconnect import unless_disconnected
from llamagen_server.api.errors import ApiError
from llamagen_server.api.state import LoadedPipeline, ModelName, RequestId
from llamagen_server.images import OutputFormat, encode_image
from llamagen_server.pipeline import Result
from llamagen_server.request import ImageRequest

router = APIRouter(tags=["generate"])


class GenerateRequest(ImageRequest):
    output_format: OutputFormat = "png"
    response_format: Literal["b64_json", "binary"] = Field(
        "b64_json", description="binary replies with the file itself, as does the header Accept: image/*; n must be 1."
    )


class GeneratedImage(BaseModel):
    b64_json: str = Field(description="The image file, base64.")
    seed: int = Field(description="Makes this picture again.")


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


class GenerateResponse(BaseModel):
    id: str
    created: int = Field(description="Unix time, seconds.")
    model: str
    images: list[GeneratedImage]
    usage: Usage
    timings: dict[str, float] = Field(description="Milliseconds by stage.")


async def encode_pictures(result: Result, output_format: OutputFormat, quality: int = 95) -> list[bytes]:
    """The pictures as files, made off the event loop; their time is noted in the result."""
    start = time.perf_counter()
    files = await asyncio.to_thread(
        lambda: [encode_image(picture.pixels, output_format, quality) for picture in result.pictures]
    )
    result.timings.file_ms = (time.perf_counter() - start) * 1000
    result.timings.total_ms += result.timings.file_ms
    return files


def b64(file: bytes) -> str:
    return base64.b64encode(file).decode()


@router.post("/generate", response_model=GenerateResponse)
async def generate(
    body: GenerateRequest, request: Request, pipeline: LoadedPipeline, model: ModelName, request_id: RequestId
) -> GenerateResponse | Response:
    """Makes pictures of a prompt or a class."""
    binary = body.response_format == "binary" or request.headers.get("accept", "").startswith("image/")
    if binary and body.n != 1:
        raise ApiError(400, f"n is {body.n}, must be 1 for a binary reply", "n")
    result = await unless_disconnected(request, pipeline.generate(body, request_id))
    files = await encode_pictures(result, body.output_format)
    if binary:
        seed = str(result.pictures[0].seed)
        return Response(files[0], media_type=f"image/{body.output_format}", headers={"x-seed": seed})
    return GenerateResponse(
        id=request_id,
        created=int(time.time()),
        model=model,
        images=[
            GeneratedImage(b64_json=b64(file), seed=picture.seed)
            for file, picture in zip(files, result.pictures, strict=True)
        ],
        usage=Usage.of(result),
        timings={name: round(value, 2) for name, value in asdict(result.timings).items()},
    )
