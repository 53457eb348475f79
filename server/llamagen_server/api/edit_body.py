"""The body of an edit: a multipart form, or JSON with data URLs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.datastructures import UploadFile

from llamagen_server.api.errors import ApiError
from llamagen_server.api.openai_protocol import ImageEditRequest, JsonImageEditRequest
from llamagen_server.image_files.reading import run_in_reader_thread

FORM, JSON = "multipart/form-data", "application/json"
FILES = ("image", "mask", "markup")
MAX_FILES = 20
"""More than one image is refused with a message that names the number, up to this one."""
MAX_FIELDS = 100


@dataclass(frozen=True)
class EditBody:
    """A checked body."""

    fields: ImageEditRequest
    image: bytes
    mask: bytes | None


async def read_edit(request: Request) -> EditBody:
    """Reads and checks the body of an edit.

    Raises:
        ApiError, RequestValidationError, InvalidRequestError: it is neither a form nor JSON, or a field is wrong.
    """
    content_type = request.headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    try:
        if kind == FORM:
            return await _read_form(request)
        if kind == JSON:
            return await run_in_reader_thread(partial(_read_json, await request.body()))
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from None
    raise ApiError(400, f"content-type is {content_type!r}, must be {FORM} or {JSON}")


async def _read_form(request: Request) -> EditBody:
    """OpenAI's clients write ``image[]`` where they send several. Fields that a page leaves empty count as absent."""
    fields: dict[str, str] = {}
    files: dict[str, list[bytes]] = {}
    async with request.form(max_files=MAX_FILES, max_fields=MAX_FIELDS) as form:
        for key, value in form.multi_items():
            name = key.partition("[")[0]
            if value == "" or (isinstance(value, UploadFile) and not (value.filename or value.size)):
                continue
            if isinstance(value, UploadFile) and name not in (*FILES, *ImageEditRequest.model_fields):
                raise ApiError(400, f"unknown file {name!r}, must be one of {', '.join(FILES)}", name)
            if isinstance(value, UploadFile) != (name in FILES):
                what = "a file" if name in FILES else "text"
                raise ApiError(400, f"{name} must be sent as {what}", name)
            if isinstance(value, UploadFile):
                files.setdefault(name, []).append(await value.read())
            elif name in fields:
                raise ApiError(400, f"{name} is given twice, must be given once", name)
            else:
                fields[name] = value
    image, mask = _only(files.get("image", []), "image"), _only(files.get("mask", []), "mask")
    body = ImageEditRequest.model_validate_strings(fields, strict=False)
    if image is None:
        raise ApiError(400, "image is missing", "image")
    return EditBody(body, image, mask)


def _read_json(text: bytes) -> EditBody:
    body = JsonImageEditRequest.model_validate_json(text)
    image = _only(body.images, "images")
    if image is None:
        raise ApiError(400, "images is empty, must have one image", "images")
    mask = body.mask.read("mask.image_url") if body.mask else None
    return EditBody(body, image.read("images.0.image_url"), mask)


def _only(given: list[Any], name: str) -> Any:
    if len(given) > 1:
        raise ApiError(400, f"{name} is given {len(given)} times, must be given once", name)
    return given[0] if given else None


def form_schema() -> dict[str, Any]:
    """Returns the OpenAPI schemas of both kinds of body."""
    form = ImageEditRequest.model_json_schema()
    file = {"type": "string", "format": "binary"}
    form["properties"] |= {
        "image": {**file, "description": "The image to edit, in any common file format."},
        "mask": {
            **file,
            "description": "An image of the same size. Its transparent pixels (alpha below 128) are inpainted; in a "
            "black and white image without transparency, the white ones are.",
        },
        "markup": {**file, "description": "Ignored."},
    }
    form["required"] = ["image"]
    json = JsonImageEditRequest.model_json_schema()
    for schema in (form, json):
        schema.pop("examples")
    return {"requestBody": {"required": True, "content": {FORM: {"schema": form}, JSON: {"schema": json}}}}
