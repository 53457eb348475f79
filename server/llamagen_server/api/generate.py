"""``POST /generate``: our own API, with everything the model can do."""

from __future__ import annotations

import asyncio
import base64
import time
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from llamagen_server.api.disconnect import unless_disconnected
from llamagen_server.api.errors import ApiError
from llamagen_server.api.events import Event, stream_events
from llamagen_server.api.state import LoadedPipeline, ModelName, RequestId
from llamagen_server.images import OutputFormat, encode_image
from llamagen_server.pipeline import Picture, Preview, Result
from llamagen_server.request import ImageRequest

router = APIRouter(tags=["generate"])

ACCEPTED: dict[str, OutputFormat] = {"image/png": "png", "image/webp": "webp", "image/jpeg": "jpeg"}


class GenerateRequest(ImageRequest):
    output_format: OutputFormat = "png"
    response_format: Literal["b64_json", "codes", "binary"] = Field(
        "b64_json",
        description="codes: the grid of codes and no pixels. binary: the file itself, as with the header "
        "Accept: image/*; n must be 1.",
    )
    stream: bool = Field(False, description="Send server-sent events as pictures are made.")
    partial_images: Annotated[int, Field(ge=0, le=16)] = Field(0, description="Previews of each picture in the stream.")


class GeneratedImage(BaseModel):
    b64_json: str | None = Field(None, description="The image file, base64.")
    codes: list[int] | None = Field(None, description="The codes in raster order, with response_format codes.")
    logprobs: list[float] | None = Field(None, description="Of each sampled code, with logprobs.")
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


def timings(result: Result) -> dict[str, float]:
    return {name: round(value, 2) for name, value in asdict(result.timings).items()}


def described(picture: Picture, body: GenerateRequest, file: bytes | None) -> GeneratedImage:
    return GeneratedImage(
        b64_json=None if file is None else b64(file),
        codes=picture.codes if body.response_format == "codes" else None,
        logprobs=picture.logprobs if body.logprobs else None,
        seed=picture.seed,
    )


@router.post("/generate", response_model=GenerateResponse, response_model_exclude_none=True)
async def generate(
    body: GenerateRequest, request: Request, pipeline: LoadedPipeline, model: ModelName, request_id: RequestId
) -> GenerateResponse | Response:
    """Makes pictures of a prompt or a class."""
    if body.stream:
        return await _stream(body, request, pipeline, request_id)
    accept = request.headers.get("accept", "")
    binary = body.response_format == "binary" or accept.startswith("image/")
    body.output_format = ACCEPTED.get(accept, body.output_format)
    if binary and body.n != 1:
        raise ApiError(400, f"n is {body.n}, must be 1 for a binary reply", "n")
    pixels = binary or body.response_format != "codes"
    result = await unless_disconnected(request, pipeline.generate(body, request_id, pixels=pixels))
    files: list[Any] = await encode_pictures(result, body.output_format) if pixels else [None] * body.n
    if binary:
        seed = str(result.pictures[0].seed)
        return Response(files[0], media_type=f"image/{body.output_format}", headers={"x-seed": seed})
    return GenerateResponse(
        id=request_id,
        created=int(time.time()),
        model=model,
        images=[described(picture, body, file) for picture, file in zip(result.pictures, files, strict=True)],
        usage=Usage.of(result),
        timings=timings(result),
    )


async def _stream(body: GenerateRequest, request: Request, pipeline: LoadedPipeline, request_id: str) -> Response:
    """Events ``partial_image`` and ``completed`` of each picture, then ``done`` with usage and timings."""
    if body.response_format == "binary":
        raise ApiError(400, "response_format is 'binary', must be 'b64_json' or 'codes' in a stream", "response_format")
    pixels = body.response_format != "codes"

    async def render(item: Preview | Picture) -> Event:
        file = await asyncio.to_thread(encode_image, item.pixels, body.output_format) if pixels else None
        if isinstance(item, Preview):
            assert file is not None
            event = {"index": item.index, "partial_image_index": item.number, "b64_json": b64(file)}
            return {"type": "partial_image", **event}
        return {"type": "completed", "index": item.index} | described(item, body, file).model_dump(exclude_none=True)

    async def finish(result: Result) -> Event:
        return {"type": "done", "id": request_id, "usage": Usage.of(result).model_dump(), "timings": timings(result)}

    return await stream_events(
        request,
        lambda on_event: pipeline.generate(
            body,
            request_id,
            partial_images=body.partial_images if pixels else 0,
            pixels=pixels,
            on_event=on_event,
        ),
        render,
        finish,
    )
