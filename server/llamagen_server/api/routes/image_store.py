"""``GET /images/NAME``: images that replies refer to by URL, kept for a limited time and in a limited space."""

from __future__ import annotations

import secrets

from cachetools import TTLCache
from fastapi import APIRouter, Request, Response

from llamagen_server.api.errors import ApiError
from llamagen_server.api.openapi import errors
from llamagen_server.image_files.writing import OutputFormat

router = APIRouter(tags=["openai"])

MAX_BYTES = 256 * 2**20
MAX_AGE = 3600.0
"""Seconds."""


class ImageStore:
    """Image files under unguessable names. The least recently requested ones make room for new ones."""

    def __init__(self, max_bytes: int = MAX_BYTES, max_age: float = MAX_AGE) -> None:
        self._files: TTLCache[str, bytes] = TTLCache(max_bytes, max_age, getsizeof=len)

    def put(self, file: bytes, output_format: OutputFormat) -> str:
        """Keeps a file and returns its name."""
        name = f"{secrets.token_urlsafe(24)}.{output_format}"
        self._files[name] = file
        return name

    def get(self, name: str) -> bytes | None:
        file: bytes | None = self._files.get(name)
        return file


@router.get(
    "/images/{name}",
    response_class=Response,
    responses=errors(404) | {200: {"content": {"image/*": {}}, "description": "The image file."}},
)
async def image(name: str, request: Request) -> Response:
    """Returns an image that was requested with ``response_format: url``, for an hour at most."""
    store: ImageStore = request.app.state.images
    file = store.get(name)
    if file is None:
        raise ApiError(404, f"image {name!r} does not exist or has expired", "name")
    media_type = f"image/{name.rpartition('.')[2]}"
    return Response(
        file, media_type=media_type, headers={"cache-control": f"private, immutable, max-age={MAX_AGE:.0f}"}
    )
