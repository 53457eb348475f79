"""``POST /v1/images/encode`` and ``/v1/images/decode``: the image tokenizer by itself."""

from __future__ import annotations

from itertools import islice
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, FailFast, Field, model_validator

from llamagen_server.api.dependencies import Client, LoadedPipeline
from llamagen_server.api.disconnect import unless_disconnected
from llamagen_server.api.errors import ApiError
from llamagen_server.api.openapi import errors
from llamagen_server.api.replies import b64, image_file
from llamagen_server.core.results import Pixels
from llamagen_server.image_files.geometry import center_crop
from llamagen_server.image_files.reading import DATA_URL, decode_base64, read_image_file
from llamagen_server.image_files.writing import OutputFormat, OutputFormatField

router = APIRouter(prefix="/v1/images", tags=["image tokenizer"])


class EncodeImageRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    image: str = Field(description="An image file, base64. It is resized and centre-cropped to the model's size.")

    @model_validator(mode="before")
    @classmethod
    def keep_two_fields(cls, values: Any) -> Any:
        """Drops all but two fields: a large body may hold a million unknown ones, and each would be reported."""
        return dict(islice(values.items(), 2)) if isinstance(values, dict) else values


class EncodeImageResponse(BaseModel):
    codes: list[int] = Field(description="Code of each image token, in raster order.")
    grid: tuple[int, int] = Field(description="Rows and columns of image tokens.")


class DecodeImageRequest(BaseModel):
    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"examples": [{"codes": [0] * 64, "output_format": "png"}]}
    )

    codes: Annotated[list[int], FailFast()] = Field(description="All codes of one image, in raster order.")
    output_format: OutputFormatField = "png"
    output_compression: Annotated[int, Field(ge=0, le=100)] = Field(95, description="Quality of webp and jpeg files.")


class DecodeImageResponse(BaseModel):
    b64_json: str = Field(description="The image file, base64.")
    output_format: OutputFormat


@router.post("/encode", responses=errors(400, 413, 415, 429, 503, 504))
async def encode_image(
    body: EncodeImageRequest, request: Request, pipeline: LoadedPipeline, client: Client
) -> EncodeImageResponse:
    """Encodes one image into its codes."""
    grid_size, side = pipeline.image_tokenizer.grid_size, pipeline.image_tokenizer.side
    codes = await unless_disconnected(request, pipeline.encode_image(lambda: _read(body.image, side), client))
    return EncodeImageResponse(codes=codes, grid=(grid_size, grid_size))


@router.post("/decode", responses=errors(400, 413, 415, 429, 503, 504))
async def decode_image(
    body: DecodeImageRequest, request: Request, pipeline: LoadedPipeline, client: Client
) -> DecodeImageResponse:
    """Decodes the codes of one image."""
    expected, last = pipeline.model.config.num_image_tokens, pipeline.model.config.codebook_size - 1
    if len(body.codes) != expected:
        raise ApiError(400, f"there are {len(body.codes)} codes, must be {expected}", "codes")
    if bad := [code for code in body.codes if not 0 <= code <= last]:
        raise ApiError(400, f"codes has {bad[0]}, must be 0 to {last}", "codes")
    pixels = await unless_disconnected(request, pipeline.decode_image(body.codes, client))
    file = await image_file(pixels, body.output_format, body.output_compression)
    return DecodeImageResponse(b64_json=b64(file), output_format=body.output_format)


def _read(data: str, side: int) -> Pixels:
    try:
        file = decode_base64(DATA_URL.sub("", data, count=1))
        return np.array(center_crop(read_image_file(file).convert("RGB"), side))
    except ValueError as error:
        raise ApiError(400, f"image is {error}", "image") from None
