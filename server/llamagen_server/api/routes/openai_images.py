"""``POST /v1/images/generations`` and ``/v1/images/edits`` as OpenAI's clients send and parse them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from llamagen_server.api.dependencies import Client, LoadedPipeline, ModelName, RequestId
from llamagen_server.api.disconnect import unless_disconnected
from llamagen_server.api.errors import ApiError
from llamagen_server.api.forms import only_file, read_form
from llamagen_server.api.openai_protocol import (
    ImageEditRequest,
    ImageGenerationRequest,
    ImagesResponse,
    OpenAIImage,
    OpenAIUsage,
)
from llamagen_server.api.openapi import IMAGE_ERRORS, events
from llamagen_server.api.replies import b64, image_file, image_files
from llamagen_server.api.routes.models import model_not_found
from llamagen_server.api.sse import Event, stream_events
from llamagen_server.core.results import GeneratedImage, GenerationResult, OnEvent, Preview
from llamagen_server.pipeline.inpaint import Inpainting, read_inpainting
from llamagen_server.pipeline.pipeline import Pipeline

router = APIRouter(prefix="/v1/images", tags=["openai"])


def _responses(kind: str) -> dict[int | str, dict[str, Any]]:
    return IMAGE_ERRORS | {200: {"content": events(f"{kind}.partial_image", f"{kind}.completed")}}


@dataclass(frozen=True)
class _ImagesCall:
    """A request for images; an edit also has the image to inpaint."""

    kind: Literal["image_generation", "image_edit"]
    body: ImageGenerationRequest
    request: Request
    pipeline: Pipeline
    request_id: str
    client: str
    size: str
    read_inpainting: Callable[[], Inpainting] | None = None

    async def reply(self) -> ImagesResponse | Response:
        body = self.body
        if body.stream:
            return await self._stream()
        result = await unless_disconnected(self.request, self._generate())
        files = await image_files(result, body.output_format, body.output_compression)
        return ImagesResponse(
            created=int(time.time()),
            data=[self._image(file, image) for file, image in zip(files, result.images, strict=True)],
            size=self.size,
            output_format=body.output_format,
            usage=self._usage(result),
        )

    async def _generate(self, on_event: OnEvent | None = None) -> GenerationResult:
        previews = self.body.partial_images if on_event else 0
        return await self.pipeline.generate(
            self.body,
            self.request_id,
            client=self.client,
            read_inpainting=self.read_inpainting,
            partial_images=previews,
            on_event=on_event,
        )

    def _image(self, file: bytes, image: GeneratedImage) -> OpenAIImage:
        if self.body.response_format == "b64_json":
            return OpenAIImage(b64_json=b64(file), **self._extra_fields(image))
        name = self.request.app.state.images.put(file, self.body.output_format)
        return OpenAIImage(url=str(self.request.url_for("image", name=name)), **self._extra_fields(image))

    def _extra_fields(self, image: GeneratedImage) -> dict[str, Any]:
        """Returns our own fields of an image, in addition to OpenAI's."""
        return {"seed": image.seed} | ({"logprobs": image.logprobs} if self.body.logprobs else {})

    def _usage(self, result: GenerationResult) -> OpenAIUsage:
        return OpenAIUsage.of(result, self.pipeline.model.config.num_image_tokens if self.read_inpainting else 0)

    async def _stream(self) -> Response:
        """Sends ``KIND.partial_image`` for each preview, then ``KIND.completed``."""

        async def render(item: Preview | GeneratedImage) -> Event | None:
            if isinstance(item, Preview):
                return await self._event("partial_image", item, partial_image_index=item.number)
            return None  # sent by finish, with the usage

        async def finish(result: GenerationResult) -> Event:
            [image] = result.images
            usage = self._usage(result).model_dump()
            return await self._event("completed", image, **self._extra_fields(image), usage=usage)

        return await stream_events(self.request, self._generate, render, finish)

    async def _event(self, name: str, item: Preview | GeneratedImage, **fields: Any) -> Event:
        body = self.body
        file = await image_file(item.pixels, body.output_format, body.output_compression)
        return {
            "type": f"{self.kind}.{name}",
            "b64_json": b64(file),
            "created_at": int(time.time()),
            "size": self.size,
            "quality": "auto",
            "background": "opaque",
            "output_format": body.output_format,
            **fields,
        }


@router.post(
    "/generations",
    response_model=ImagesResponse,
    response_model_exclude_none=True,
    responses=_responses("image_generation"),
)
async def generations(
    body: ImageGenerationRequest,
    request: Request,
    pipeline: LoadedPipeline,
    model: ModelName,
    request_id: RequestId,
    client: Client,
) -> ImagesResponse | Response:
    """Generates images of a prompt."""
    size = _check(body, pipeline, model)
    call = _ImagesCall("image_generation", body, request, pipeline, request_id, client, size)
    return await call.reply()


def _form_schema() -> dict[str, Any]:
    """Returns the OpenAPI schema of the form: the fields of `ImageEditRequest` and the files."""
    schema = ImageEditRequest.model_json_schema()
    file = {"type": "string", "format": "binary"}
    schema["properties"] |= {
        "image": {**file, "description": "The image to edit, in any common file format."},
        "mask": {**file, "description": "An image of the same size; its transparent pixels (alpha 0) are inpainted."},
        "markup": {**file, "description": "Ignored."},
    }
    schema["required"] = ["image"]
    schema.pop("examples")
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


@router.post(
    "/edits",
    response_model=ImagesResponse,
    response_model_exclude_none=True,
    responses=_responses("image_edit"),
    openapi_extra=_form_schema(),
)
async def edits(
    request: Request, pipeline: LoadedPipeline, model: ModelName, request_id: RequestId, client: Client
) -> ImagesResponse | Response:
    """Inpaints a part of an image: the transparent pixels of the mask, or everything below the kept rows.

    The image is resized and cropped to the model's size. Whole image tokens are sampled; outside the mask the reply has
    the original pixels.
    """
    fields, files = await read_form(request)
    try:
        body = ImageEditRequest.model_validate_strings(fields, strict=False)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from None
    size = _check(body, pipeline, model)
    image_tokenizer = pipeline.image_tokenizer
    image, mask = only_file(files, "image"), only_file(files, "mask")
    if image is None:
        raise ApiError(400, "image is missing", "image")
    read = partial(
        read_inpainting, image, mask, body.keep_rows, body.feather, image_tokenizer.side, image_tokenizer.grid_size
    )
    call = _ImagesCall("image_edit", body, request, pipeline, request_id, client, size, read)
    return await call.reply()


def _check(body: ImageGenerationRequest, pipeline: Pipeline, model: str) -> str:
    """Checks the fields that only this API has. Returns the size of the images as "WxH"."""
    if body.model not in (None, model):
        raise model_not_found(body.model, model)
    size = f"{pipeline.model.image_size}x{pipeline.model.image_size}"
    if body.size not in ("auto", size):
        raise ApiError(400, f"size is {body.size!r}, must be 'auto' or '{size}'", "size")
    if body.stream and body.n != 1:
        raise ApiError(400, f"n is {body.n}, must be 1 in a stream", "n")
    if body.stream and body.response_format != "b64_json":
        raise ApiError(400, "response_format is 'url', must be 'b64_json' in a stream", "response_format")
    return size
