"""``POST /generate``: our own API, with everything that the model can do."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from llamagen_server.api.dependencies import Client, LoadedPipeline, ModelNames, RequestId
from llamagen_server.api.disconnect import unless_disconnected
from llamagen_server.api.errors import ApiError
from llamagen_server.api.openapi import IMAGE_ERRORS, events
from llamagen_server.api.replies import Usage, b64, image_file, image_files, timings
from llamagen_server.api.routes.models import check_model
from llamagen_server.api.sse import Event, stream_events
from llamagen_server.core.request import Boolean, ImageRequest, Integer
from llamagen_server.core.results import GeneratedImage, GenerationResult, Preview
from llamagen_server.image_files.writing import OutputFormat, OutputFormatField
from llamagen_server.pipeline.pipeline import Pipeline

router = APIRouter(tags=["generate"])

ACCEPTED: dict[str, OutputFormat] = {"image/png": "png", "image/webp": "webp", "image/jpeg": "jpeg"}


class GenerateRequest(ImageRequest):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"prompt": "a large red circle on a white background", "n": 2, "seed": 7}]}
    )

    model: str | None = Field(None, description="Name of the model; may be omitted.")
    output_format: OutputFormatField = "png"
    response_format: Literal["b64_json", "codes", "binary"] = Field(
        "b64_json",
        description="codes: the grid of codes and no pixels. binary: the file itself, as with the header "
        "Accept: image/*; n must be 1.",
    )
    stream: Boolean = Field(False, description="Send server-sent events while images are generated.")
    partial_images: Annotated[Integer, Field(ge=0, le=16)] = Field(
        0, description="Previews of each image in the stream."
    )


class ImageItem(BaseModel):
    b64_json: str | None = Field(None, description="The image file, base64.")
    codes: list[int] | None = Field(
        None, description="Code of each image token in raster order, with response_format codes."
    )
    logprobs: list[float] | None = Field(
        None, description="With logprobs: log-probability of each code in the distribution that it is sampled from."
    )
    conditional_logprobs: list[float] | None = Field(
        None, description="With branch_logprobs: log-probability of each code in the conditional branch alone."
    )
    unconditional_logprobs: list[float] | None = Field(None, description="The same in the unconditional branch.")
    seed: int = Field(description="Seed of this image: a request with it and n = 1 generates the image again.")


class GenerateResponse(BaseModel):
    id: str
    created: int = Field(description="Unix time, seconds.")
    model: str
    images: list[ImageItem]
    usage: Usage
    timings: dict[str, float] = Field(description="Milliseconds by stage.")


def image_item(image: GeneratedImage, body: GenerateRequest, file: bytes | None) -> ImageItem:
    return ImageItem(
        b64_json=None if file is None else b64(file),
        codes=image.codes if body.response_format == "codes" else None,
        logprobs=image.logprobs if body.logprobs else None,
        conditional_logprobs=image.conditional_logprobs if body.branch_logprobs else None,
        unconditional_logprobs=image.unconditional_logprobs if body.branch_logprobs else None,
        seed=image.seed,
    )


@router.post(
    "/generate",
    response_model=GenerateResponse,
    response_model_exclude_none=True,
    responses=IMAGE_ERRORS
    | {200: {"content": events("partial_image", "completed", "done") | {kind: {} for kind in ACCEPTED}}},
)
async def generate(
    body: GenerateRequest,
    request: Request,
    pipeline: LoadedPipeline,
    names: ModelNames,
    request_id: RequestId,
    client: Client,
) -> GenerateResponse | Response:
    """Generates images of a prompt or a class."""
    check_model(body.model, names)
    if body.stream:
        return await _stream(body, request, pipeline, request_id, client)
    accept = request.headers.get("accept", "")
    asked = "response_format" in body.model_fields_set  # the body outranks the header
    binary = body.response_format == "binary" or (accept.startswith("image/") and not asked)
    if "output_format" not in body.model_fields_set:
        body.output_format = ACCEPTED.get(accept, body.output_format)
    if binary and body.n != 1:
        raise ApiError(400, f"n is {body.n}, must be 1 for a binary reply", "n")
    pixels = body.response_format != "codes"
    result = await unless_disconnected(request, pipeline.generate(body, request_id, client=client, pixels=pixels))
    files: Sequence[Any] = await image_files(result, body.output_format) if pixels else [None] * body.n
    if binary:
        seed = str(result.images[0].seed)
        return Response(files[0], media_type=f"image/{body.output_format}", headers={"x-seed": seed})
    return GenerateResponse(
        id=request_id,
        created=int(time.time()),
        model=names[0],
        images=[image_item(image, body, file) for image, file in zip(result.images, files, strict=True)],
        usage=Usage.of(result),
        timings=timings(request, result),
    )


async def _stream(
    body: GenerateRequest, request: Request, pipeline: Pipeline, request_id: str, client: str
) -> Response:
    """Sends ``partial_image`` and ``completed`` of each image, then ``done`` with usage and timings."""
    if body.response_format == "binary":
        raise ApiError(400, "response_format is 'binary', must be 'b64_json' or 'codes' in a stream", "response_format")
    pixels = body.response_format != "codes"

    async def render(item: Preview | GeneratedImage) -> Event:
        file = await image_file(item.pixels, body.output_format) if pixels else None
        if isinstance(item, Preview):
            assert file is not None
            event = {"index": item.index, "partial_image_index": item.number, "b64_json": b64(file)}
            return {"type": "partial_image", **event}
        return {"type": "completed", "index": item.index} | image_item(item, body, file).model_dump(exclude_none=True)

    async def finish(result: GenerationResult) -> Event:
        return {
            "type": "done",
            "id": request_id,
            "usage": Usage.of(result).model_dump(),
            "timings": timings(request, result),
        }

    return await stream_events(
        request,
        lambda on_event: pipeline.generate(
            body,
            request_id,
            client=client,
            partial_images=body.partial_images if pixels else 0,
            pixels=pixels,
            on_event=on_event,
        ),
        render,
        finish,
    )
