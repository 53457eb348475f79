"""Multipart forms, which carry the files of an edit."""

from __future__ import annotations

from fastapi import Request
from starlette.datastructures import UploadFile

from llamagen_server.api.errors import ApiError

FILES = ("image", "mask", "markup")
MAX_FILES = 20
"""More than one image is refused with a message that names the number, up to this one."""
MAX_FIELDS = 100


async def read_form(request: Request) -> tuple[dict[str, str], dict[str, list[bytes]]]:
    """Returns text fields and files by name. OpenAI's clients write ``image[]`` where they send several."""
    content_type = request.headers.get("content-type", "")
    if not content_type.startswith("multipart/form-data"):
        raise ApiError(400, f"content-type is {content_type!r}, must be multipart/form-data")
    fields: dict[str, str] = {}
    files: dict[str, list[bytes]] = {}
    async with request.form(max_files=MAX_FILES, max_fields=MAX_FIELDS) as form:
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


def only_file(files: dict[str, list[bytes]], name: str) -> bytes | None:
    given = files.get(name, [])
    if len(given) > 1:
        raise ApiError(400, f"{name} is given {len(given)} times, must be given once", name)
    return given[0] if given else None
