"""What image files state of themselves: the settings of the sampler, and checksums."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def parse_settings(text: str | bytes, source: str) -> dict[str, Any]:
    """Parses settings, a JSON object. Raises ValueError, which names ``source``, if they are none."""
    try:
        settings = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{source}: not JSON ({error})") from None
    if not isinstance(settings, dict):
        raise ValueError(f"{source}: must be a JSON object")
    return settings


def file_sha256(path: Path) -> str:
    """Returns the SHA-256 checksum of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
