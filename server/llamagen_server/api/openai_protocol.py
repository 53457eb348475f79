"""Requests and replies of OpenAI's images API."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from llamagen_server.api.replies import Usage
from llamagen_server.core.request import ImageRequest
from llamagen_server.core.results import GenerationResult
from llamagen_server.image_files.files import OutputFormat


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
