"""``POST /v1/images/generations`` and ``/v1/images/edits`` as OpenAI's clients send and parse them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from starlette.datastructures import UploadFile

from llamagen_server.api.dependencies import LoadedPipeline, ModelName, RequestId
from llamagen_server.api.disconnect import unless_disconnected
from llamagen_server.api.errors import ApiError
from llamagen_server.api.openapi import IMAGE_ERRORS, events
from llamagen_server.api.replies import Usage, b64, image_file, image_files
from llamagen_server.api.routes.models import model_not_found
from llamagen_server.api.sse import Event, stream_events
from llamagen_server.core.request import ImageRequest
from llamagen_server.core.results import GeneratedImage, GenerationResult, OnEvent, Preview
from llamagen_server.image_files.files import OutputFormat
from llamagen_server.pipeline.inpaint import Inpainting, read_inpainting
from llamagen_server.pipeline.pipeline import Pipeline

router = APIRouter(prefix="/v1/images", tags=["openai"])


def _responses(kind: str) -> dict[int | str, dict[str, Any]]:
    return IMAGE_ERRORS | {200: {"content": events(f"{kind}.partial_image", f"{kind}.completed")}}


class ImageGenerationRequest(ImageRequest):
    """OpenAI's fields and ours. Those without a meaning here are accepted and ignored."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"prompt": "a small blue square above a large yellow triangle", "n": 1}]}
    )

    model: str | None = None
    size: str = Field("auto", description="The model's own size, or auto.")
    output_format: OutputFormat = "png"
    output_compression: Annotated[int, Field(ge=0, le=100)] = Field(95, description="Quality of webp and jpeg files.")
    response_format: Literal["b64_json", "url"] = Field(
        "b64_json", description="url: the URL of a file that this server keeps for an hour at most."
    )
    stream: bool = Field(False, description="Send server-sent events while the image is generated; n must be 1.")
    partial_images: Annotated[int, Field(ge=0, le=3)] = Field(0, description="Previews in the stream.")
    background: Any = Field(None, description="Ignored.")
    complexity: Any = Field(None, description="Ignored.")
    frame_count: Any = Field(None, description="Ignored.")
    frame_duration_ms: Any = Field(None, description="Ignored.")
    moderation: Any = Field(None, description="Ignored.")
    quality: Any = Field(None, description="Ignored.")
    safety_identifier: Any = Field(None, description="Ignored.")
    style: Any = Field(None, description="Ignored.")
    svg: Any = Field(None, description="Ignored.")
    user: Any = Field(None, description="Ignored.")

    @model_validator(mode="before")
    @classmethod
    def null_is_absent(cls, values: Any) -> Any:
        """Drops null fields: OpenAI's optional fields may be null."""
        return {k: v for k, v in values.items() if v is not None} if isinstance(values, dict) else values


class ImageEditRequest(ImageGenerationRequest):
    """The text fields of an edit's form."""

    keep_rows: int | None = Field(
        None, description="Number of top rows of image tokens to keep, in place of a mask; the rest is inpainted."
    )
    feather: Annotated[int, Field(ge=0, le=256)] = Field(
        0, description="Width in pixels, inside the mask, over which the original fades into the generated image."
    )
    input_fidelity: Any = Field(None, description="Ignored.")


class OpenAIImage(BaseModel):
    b64_json: str | None = None
    url: str | None = None
    logprobs: list[float] | None = Field(
        None, description="With logprobs: log-probability of each code in the distribution that it is sampled from."
    )
    seed: int = Field(description="Seed of this image: a request with it and n = 1 generates the image again.")


class TokensDetails(BaseModel):
    text_tokens: int
    image_tokens: int


class OpenAIUsage(Usage):
    input_tokens_details: TokensDetails

    @classmethod
    def of(cls, result: GenerationResult, input_image_tokens: int = 0) -> OpenAIUsage:
        usage = Usage.of(result)
        return cls(
            input_tokens=usage.input_tokens + input_image_tokens,
            output_tokens=usage.output_tokens,
            total_tokens=usage.total_tokens + input_image_tokens,
            input_tokens_details=TokensDetails(text_tokens=usage.input_tokens, image_tokens=input_image_tokens),
        )


class ImagesResponse(BaseModel):
    created: int = Field(description="Unix time, seconds.")
    data: list[OpenAIImage]
    size: str
    background: Literal["opaque"] = "opaque"
    output_format: OutputFormat
    usage: OpenAIUsage


@dataclass(frozen=True)
class _ImagesCall:
    """A request for images; an edit also has the image to inpaint."""

    kind: Literal["image_generation", "image_edit"]
    body: ImageGenerationRequest
    request: Request
    pipeline: Pipeline
    request_id: str
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
            self.body, self.request_id, read_inpainting=self.read_inpainting, partial_images=previews, on_event=on_event
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
) -> ImagesResponse | Response:
    """Generates images of a prompt."""
    size = _check(body, pipeline, model)
    call = _ImagesCall("image_generation", body, request, pipeline, request_id, size)
    return await call.reply()


FILES = ("image", "mask", "markup")


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
    request: Request, pipeline: LoadedPipeline, model: ModelName, request_id: RequestId
) -> ImagesResponse | Response:
    """Inpaints a part of an image: the transparent pixels of the mask, or everything below the kept rows.

    The image is resized and cropped to the model's size. Whole image tokens are sampled; outside the mask the reply has
    the original pixels.
    """
    fields, files = await _read_form(request)
    try:
        body = ImageEditRequest.model_validate_strings(fields, strict=False)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from None
    size = _check(body, pipeline, model)
    image_tokenizer = pipeline.image_tokenizer
    image, mask = _one(files, "image"), _one(files, "mask")
    if image is None:
        raise ApiError(400, "image is missing", "image")
    read = partial(
        read_inpainting, image, mask, body.keep_rows, body.feather, image_tokenizer.side, image_tokenizer.grid_size
    )
    call = _ImagesCall("image_edit", body, request, pipeline, request_id, size, read)
    return await call.reply()


async def _read_form(request: Request) -> tuple[dict[str, str], dict[str, list[bytes]]]:
    """Returns text fields and files by name. OpenAI's clients write ``image[]`` where they send several."""
    content_type = request.headers.get("content-type", "")
    if not content_type.startswith("multipart/form-data"):
        raise ApiError(400, f"content-type is {content_type!r}, must be multipart/form-data")
    fields: dict[str, str] = {}
    files: dict[str, list[bytes]] = {}
    async with request.form() as form:
        for key, value in form.multi_items():
            name = key.partition("[")[0]
            if isinstance(value, UploadFile) != (name in FILES):
                what = "a file" if name in FILES else "text"
                raise ApiError(400, f"{name} must be sent as {what}", name)
            if isinstance(value, UploadFile):
                files.setdefault(name, []).append(await value.read())
            else:
                fields[name] = value
    return fields, files


def _one(files: dict[str, list[bytes]], name: str) -> bytes | None:
    given = files.get(name, [])
    if len(given) > 1:
        raise ApiError(400, f"{name} is given {len(given)} times, this model takes one", name)
    return given[0] if given else None


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
