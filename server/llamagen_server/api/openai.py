"""``POST /v1/images/generations`` as OpenAI's clients send and parse it."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field, model_validator

from llamagen_server.api.disconnect import unless_disconnected
from llamagen_server.api.errors import ApiError
from llamagen_server.api.events import Event, stream_events
from llamagen_server.api.generate import Usage, b64, encode_pictures
from llamagen_server.api.state import LoadedPipeline, ModelName, RequestId
from llamagen_server.images import OutputFormat, encode_image
from llamagen_server.pipeline import Picture, Pipeline, Preview, Result
from llamagen_server.request import ImageRequest

router = APIRouter(prefix="/v1/images", tags=["openai"])


class ImageGenerationRequest(ImageRequest):
    """OpenAI's fields beside ours. Those that have no meaning here are accepted and ignored."""

    model: str | None = None
    size: str = Field("auto", description="The model's own size, or auto.")
    output_format: OutputFormat = "png"
    output_compression: Annotated[int, Field(ge=0, le=100)] = Field(95, description="Quality of webp and jpeg files.")
    response_format: Literal["b64_json"] = "b64_json"
    stream: bool = Field(False, description="Send server-sent events as the picture is made; n must be 1.")
    partial_images: Annotated[int, Field(ge=0, le=3)] = Field(0, description="Previews in the stream.")
    background: Any = Field(None, description="Ignored.")
    moderation: Any = Field(None, description="Ignored.")
    quality: Any = Field(None, description="Ignored.")
    safety_identifier: Any = Field(None, description="Ignored.")
    style: Any = Field(None, description="Ignored.")
    user: Any = Field(None, description="Ignored.")

    @model_validator(mode="before")
    @classmethod
    def null_is_absent(cls, values: Any) -> Any:
        """OpenAI's optional fields may be null."""
        return {k: v for k, v in values.items() if v is not None} if isinstance(values, dict) else values


class OpenAIImage(BaseModel):
    b64_json: str


class TokensDetails(BaseModel):
    text_tokens: int
    image_tokens: int = 0


class OpenAIUsage(Usage):
    input_tokens_details: TokensDetails

    @classmethod
    def of(cls, result: Result) -> OpenAIUsage:
        details = TokensDetails(text_tokens=result.condition_tokens)
        return cls(**Usage.of(result).model_dump(), input_tokens_details=details)


class ImagesResponse(BaseModel):
    created: int
    data: list[OpenAIImage]
    size: str
    output_format: OutputFormat
    usage: OpenAIUsage


@router.post("/generations", response_model=ImagesResponse)
async def generations(
    body: ImageGenerationRequest,
    request: Request,
    pipeline: LoadedPipeline,
    model: ModelName,
    request_id: RequestId,
) -> ImagesResponse | Response:
    """Makes pictures of a prompt."""
    size = _check(body, pipeline, model)
    if body.stream:
        return await _stream(body, request, pipeline, request_id, size)
    result = await unless_disconnected(request, pipeline.generate(body, request_id))
    files = await encode_pictures(result, body.output_format, body.output_compression)
    return ImagesResponse(
        created=int(time.time()),
        data=[OpenAIImage(b64_json=b64(file)) for file in files],
        size=size,
        output_format=body.output_format,
        usage=OpenAIUsage.of(result),
    )


def _check(body: ImageGenerationRequest, pipeline: Pipeline, model: str) -> str:
    """What only this API has; returns the size of the pictures as "WxH"."""
    if body.model not in (None, model):
        message = f"model {body.model!r} does not exist; this server has {model!r}"
        raise ApiError(404, message, "model", "model_not_found")
    size = f"{pipeline.model.image_size}x{pipeline.model.image_size}"
    if body.size not in ("auto", size):
        raise ApiError(400, f"size is {body.size!r}, must be 'auto' or '{size}'", "size")
    if body.stream and body.n != 1:
        raise ApiError(400, f"n is {body.n}, must be 1 in a stream", "n")
    return size


async def _stream(
    body: ImageGenerationRequest, request: Request, pipeline: Pipeline, request_id: str, size: str
) -> Response:
    """Events ``image_generation.partial_image``, then ``image_generation.completed``."""

    async def event(kind: str, item: Preview | Picture, **fields: Any) -> Event:
        file = await asyncio.to_thread(encode_image, item.pixels, body.output_format, body.output_compression)
        return {
            "type": f"image_generation.{kind}",
            "b64_json": b64(file),
            "created_at": int(time.time()),
            "size": size,
            "quality": "auto",
            "background": "opaque",
            "output_format": body.output_format,
            **fields,
        }

    async def render(item: Preview | Picture) -> Event | None:
        if isinstance(item, Preview):
            return await event("partial_image", item, partial_image_index=item.number)
        return None  # is sent when the usage is known

    async def finish(result: Result) -> Event:
        return await event("completed", result.pictures[0], usage=OpenAIUsage.of(result).model_dump())

    return await stream_events(
        request,
        lambda on_event: pipeline.generate(body, request_id, partial_images=body.partial_images, on_event=on_event),
        render,
        finish,
    )
