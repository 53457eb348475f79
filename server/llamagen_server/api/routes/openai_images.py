"""``POST /v1/images/generations`` and ``/v1/images/edits`` as OpenAI's clients send and parse them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from fastapi import APIRouter, Request, Response

from llamagen_server.api.dependencies import Client, ClientPolicy, LoadedPipeline, ModelNames, RequestId
from llamagen_server.api.disconnect import unless_disconnected
from llamagen_server.api.edit_body import form_schema, read_edit
from llamagen_server.api.errors import ApiError
from llamagen_server.api.openai_protocol import ImageGenerationRequest, ImagesResponse, OpenAIImage, OpenAIUsage
from llamagen_server.api.openapi import IMAGE_ERRORS, events
from llamagen_server.api.replies import b64, image_file, image_files
from llamagen_server.api.routes.models import check_model
from llamagen_server.api.sse import Event, stream_events
from llamagen_server.core.options import RequestPolicy, ResponseFormat, SizePolicy
from llamagen_server.core.results import GeneratedImage, GenerationResult, OnEvent, Preview
from llamagen_server.pipeline.inpaint import Inpainting, read_inpainting
from llamagen_server.pipeline.pipeline import Pipeline

router = APIRouter(prefix="/v1/images", tags=["openai"])

MIN_SIDE, MAX_SIDE = 16, 2048
"""Pixels per side of images that are resized."""


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
    size: tuple[int, int]
    """Width and height of the images in the reply."""
    response_format: ResponseFormat
    read_inpainting: Callable[[], Inpainting | None] | None = None

    async def reply(self) -> ImagesResponse | Response:
        body = self.body
        if body.stream:
            return await self._stream()
        result = await unless_disconnected(self.request, self._generate())
        files = await image_files(result, body.output_format, body.output_compression, self.size)
        return ImagesResponse(
            created=int(time.time()),
            data=[self._image(file, image) for file, image in zip(files, result.images, strict=True)],
            size=self._size,
            output_format=body.output_format,
            usage=OpenAIUsage.of(result),
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
        if self.response_format == "b64_json":
            return OpenAIImage(b64_json=b64(file), **self._extra_fields(image))
        name = self.request.app.state.images.put(file, self.body.output_format)
        return OpenAIImage(url=str(self.request.url_for("image", name=name)), **self._extra_fields(image))

    def _extra_fields(self, image: GeneratedImage) -> dict[str, Any]:
        """Returns our own fields of an image, in addition to OpenAI's."""
        return {"seed": image.seed} | ({"logprobs": image.logprobs} if self.body.logprobs else {})

    @property
    def _size(self) -> str:
        return "{}x{}".format(*self.size)

    async def _stream(self) -> Response:
        """Sends ``KIND.partial_image`` for each preview, then ``KIND.completed``."""

        async def render(item: Preview | GeneratedImage) -> Event | None:
            if isinstance(item, Preview):
                return await self._event("partial_image", item, partial_image_index=item.number)
            return None  # sent by finish, with the usage

        async def finish(result: GenerationResult) -> Event:
            [image] = result.images
            usage = OpenAIUsage.of(result).model_dump()
            return await self._event("completed", image, **self._extra_fields(image), usage=usage)

        return await stream_events(self.request, self._generate, render, finish)

    async def _event(self, name: str, item: Preview | GeneratedImage, **fields: Any) -> Event:
        body = self.body
        file = await image_file(item.pixels, body.output_format, body.output_compression, self.size)
        return {
            "type": f"{self.kind}.{name}",
            "b64_json": b64(file),
            "created_at": int(time.time()),
            "size": self._size,
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
    names: ModelNames,
    policy: ClientPolicy,
    request_id: RequestId,
    client: Client,
) -> ImagesResponse | Response:
    """Generates images of a prompt."""
    size, response_format = _check(body, pipeline, names, policy)
    call = _ImagesCall("image_generation", body, request, pipeline, request_id, client, size, response_format)
    return await call.reply()


@router.post(
    "/edits",
    response_model=ImagesResponse,
    response_model_exclude_none=True,
    responses=_responses("image_edit"),
    openapi_extra=form_schema(),
)
async def edits(
    request: Request,
    pipeline: LoadedPipeline,
    names: ModelNames,
    policy: ClientPolicy,
    request_id: RequestId,
    client: Client,
) -> ImagesResponse | Response:
    """Inpaints a part of an image: the masked pixels, or everything below the kept rows.

    The image is resized and cropped to the model's size. Whole image tokens are sampled; outside the mask the reply has
    the original pixels.
    """
    edit = await read_edit(request)
    body = edit.fields
    size, response_format = _check(body, pipeline, names, policy)
    read = partial(
        read_inpainting,
        edit.image,
        edit.mask,
        body.keep_rows,
        body.feather,
        pipeline.image_tokenizer.side,
        pipeline.image_tokenizer.grid_size,
        policy.edit_without_mask,
    )
    call = _ImagesCall("image_edit", body, request, pipeline, request_id, client, size, response_format, read)
    return await call.reply()


def _check(
    body: ImageGenerationRequest, pipeline: Pipeline, names: Sequence[str], policy: RequestPolicy
) -> tuple[tuple[int, int], ResponseFormat]:
    """Checks the fields that only this API has. Returns width and height of the images, and the kind of reply."""
    check_model(body.model, names)
    size = _size(body.size, pipeline.model.image_size, policy.size)
    if not body.stream:
        return size, body.response_format or policy.response_format
    if body.n != 1:
        raise ApiError(400, f"n is {body.n}, must be 1 in a stream", "n")
    if body.response_format == "url":
        raise ApiError(400, "response_format is 'url', must be 'b64_json' in a stream", "response_format")
    return size, "b64_json"


def _size(text: str, side: int, policy: SizePolicy) -> tuple[int, int]:
    """Returns width and height of the images in the reply.

    Args:
        text: "auto" or "WIDTHxHEIGHT", also with X, × or * as some clients write it.
        side: pixels per side of the model's images.
    """
    plain = re.sub("[X×*]", "x", text)
    if plain in ("auto", f"{side}x{side}"):
        return side, side
    if policy == "strict":
        message = f"size is {text!r}, must be 'auto' or '{side}x{side}'; a server with --size-policy resize has others"
        raise ApiError(400, message, "size")
    match = re.fullmatch(r"(\d{1,4})x(\d{1,4})", plain, re.ASCII)
    width, height = map(int, match.groups()) if match else (0, 0)
    if not (MIN_SIDE <= width <= MAX_SIDE and MIN_SIDE <= height <= MAX_SIDE):
        message = f"size is {text!r}, must be 'auto' or WIDTHxHEIGHT, each from {MIN_SIDE} to {MAX_SIDE}"
        raise ApiError(400, message, "size")
    return width, height
