"""``POST /v1/images/generations`` as OpenAI's clients send and parse it."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from llamagen_server.api.disconnect import unless_disconnected
from llamagen_server.api.errors import ApiError
from llamagen_server.api.generate import Usage, b64, encode_pictures
from llamagen_server.api.state import LoadedPipeline, ModelName, RequestId
from llamagen_server.images import OutputFormat
from llamagen_server.request import ImageRequest

router = APIRouter(prefix="/v1/images", tags=["openai"])


class ImageGenerationRequest(ImageRequest):
    """OpenAI's fields beside ours. Those that have no meaning here are accepted and ignored."""

    model: str | None = None
    size: str = Field("auto", description="The model's own size, or auto.")
    output_format: OutputFormat = "png"
    output_compression: Annotated[int, Field(ge=0, le=100)] = Field(95, description="Quality of webp and jpeg files.")
    response_format: Literal["b64_json"] = "b64_json"
    background: Any = Field(None, description="Ignored.")
    moderation: Any = Field(None, description="Ignored.")
    quality: Any = Field(None, description="Ignored.")
    style: Any = Field(None, description="Ignored.")
    user: Any = Field(None, description="Ignored.")


class OpenAIImage(BaseModel):
    b64_json: str


class TokensDetails(BaseModel):
    text_tokens: int
    image_tokens: int = 0


class OpenAIUsage(Usage):
    input_tokens_details: TokensDetails


class ImagesResponse(BaseModel):
    created: int
    data: list[OpenAIImage]
    size: str
    output_format: OutputFormat
    usage: OpenAIUsage


@router.post("/generations")
async def generations(
    body: ImageGenerationRequest, request: Request, pipeline: LoadedPipeline, model: ModelName, request_id: RequestId
) -> ImagesResponse:
    """Makes pictures of a prompt."""
    if body.model not in (None, model):
        raise ApiError(
            404, f"model {body.model!r} does not exist; this server has {model!r}", "model", "model_not_found"
        )
    side = pipeline.model.image_size
    if body.size not in ("auto", own := f"{side}x{side}"):
        raise ApiError(400, f"size is {body.size!r}, must be 'auto' or '{own}'", "size")
    result = await unless_disconnected(request, pipeline.generate(body, request_id))
    files = await encode_pictures(result, body.output_format, body.output_compression)
    usage = Usage.of(result).model_dump()
    return ImagesResponse(
        created=int(time.time()),
        data=[OpenAIImage(b64_json=b64(file)) for file in files],
        size=f"{side}x{side}",
        output_format=body.output_format,
        usage=OpenAIUsage(**usage, input_tokens_details=TokensDetails(text_tokens=result.condition_tokens)),
    )
