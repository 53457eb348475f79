"""Requests and replies of OpenAI's images API."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from llamagen_server.api.replies import Usage
from llamagen_server.core.errors import InvalidRequestError
from llamagen_server.core.options import ResponseFormat
from llamagen_server.core.request import Boolean, ImageRequest, Integer
from llamagen_server.core.results import GenerationResult
from llamagen_server.image_files.reading import DATA_URL, decode_base64
from llamagen_server.image_files.writing import OutputFormat, OutputFormatField


def _without_nulls(values: Any) -> Any:
    """Drops null fields: OpenAI's optional fields may be null."""
    return {k: v for k, v in values.items() if v is not None} if isinstance(values, dict) else values


class ImageGenerationRequest(ImageRequest):
    """OpenAI's fields and ours. Those without a meaning here are accepted and ignored."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"prompt": "a small blue square above a large yellow triangle", "n": 1}]}
    )

    model: str | None = None
    size: str = Field(
        "auto",
        description="auto: the model's own size. Others, such as 1024x1024, need a server that was started with "
        "--size-policy resize, which generates at the model's size and resizes.",
    )
    output_format: OutputFormatField = "png"
    output_compression: Annotated[Integer, Field(ge=0, le=100)] = Field(
        95, description="Quality of webp and jpeg files."
    )
    response_format: ResponseFormat | None = Field(
        None,
        description="url: the URL of a file that this server keeps for an hour at most. Default: b64_json, unless the "
        "server was started with --default-response-format url.",
    )
    stream: Boolean = Field(False, description="Send server-sent events while the image is generated; n must be 1.")
    partial_images: Annotated[Integer, Field(ge=0, le=3)] = Field(0, description="Previews in the stream.")
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
        return _without_nulls(values)


class ImageEditRequest(ImageGenerationRequest):
    """The fields of an edit besides its images: text fields of a form, or fields of a JSON body."""

    keep_rows: Integer | None = Field(
        None, description="Number of top rows of image tokens to keep, in place of a mask; the rest is inpainted."
    )
    feather: Annotated[Integer, Field(ge=0, le=256)] = Field(
        0, description="Width in pixels, inside the mask, over which the original fades into the generated image."
    )
    input_fidelity: Any = Field(None, description="Ignored.")


class ImageReference(BaseModel):
    """An image in a JSON body."""

    model_config = ConfigDict(extra="forbid", strict=True)

    image_url: str = Field(description="A data URL: data:image/png;base64,... Nothing is fetched from other URLs.")

    @model_validator(mode="before")
    @classmethod
    def null_is_absent(cls, values: Any) -> Any:
        return _without_nulls(values)

    def read(self, name: str) -> bytes:
        """Returns the file. ``name`` is the reference's place in the body, for the error."""
        start = DATA_URL.match(self.image_url)
        if not start:
            given = self.image_url if len(self.image_url) <= 40 else f"{self.image_url[:40]}..."
            message = (
                f"{name} is {given!r}, must be a data URL (data:image/png;base64,...); this server fetches nothing"
            )
            raise InvalidRequestError(message, name)
        try:
            return decode_base64(self.image_url[start.end() :])
        except ValueError as error:
            raise InvalidRequestError(f"{name} is {error}", name) from None


def _reference(image: Any) -> Any:
    if isinstance(image, str):
        return {"image_url": image}
    if isinstance(image, dict) and isinstance(url := image.get("image_url"), dict) and url.keys() == {"url"}:
        return {**image, "image_url": url["url"]}
    return image


class JsonImageEditRequest(ImageEditRequest):
    """An edit as JSON."""

    images: list[ImageReference] = Field(
        description="The image to edit; one. Other servers' forms count too: image in place of images, a data URL in "
        "place of an object, {url} in place of image_url's text."
    )
    mask: ImageReference | None = Field(None, description="The mask, as in a form.")

    @model_validator(mode="before")
    @classmethod
    def read_other_forms(cls, values: Any) -> Any:
        """Writes images as OpenAI does, where a client has one of the usual other forms."""
        if not isinstance(values, dict):
            return values
        values = dict(values)
        if "image" in values and "images" not in values:
            image = values.pop("image")
            values["images"] = image if isinstance(image, list) else [image]
        if isinstance(values.get("images"), list):
            values["images"] = [_reference(image) for image in values["images"]]
        if "mask" in values:
            values["mask"] = _reference(values["mask"])
        return values


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
    def of(cls, result: GenerationResult) -> OpenAIUsage:
        usage, image_tokens = Usage.of(result), result.input_image_tokens
        return cls(
            input_tokens=usage.input_tokens + image_tokens,
            output_tokens=usage.output_tokens,
            total_tokens=usage.total_tokens + image_tokens,
            input_tokens_details=TokensDetails(text_tokens=usage.input_tokens, image_tokens=image_tokens),
        )


class ImagesResponse(BaseModel):
    created: int = Field(description="Unix time, seconds.")
    data: list[OpenAIImage]
    size: str
    background: Literal["opaque"] = "opaque"
    output_format: OutputFormat
    usage: OpenAIUsage
