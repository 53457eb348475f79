"""Finds an official checkpoint on this machine, or downloads it: resumable, of a pinned revision, verified."""

from __future__ import annotations

import hashlib
import logging
import re
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # public, but not marked so

from llamagen_server.hub.cache import checkpoints_folder
from llamagen_server.hub.catalogue import HubFile

logger = logging.getLogger(__name__)

SHA256 = re.compile(r"[0-9a-f]{64}")
"""ETag of a large file on the hub: its checksum. Other ETags are not."""


def checkpoint_file(file: HubFile) -> Path:
    """Returns the verified local file: from `checkpoints_folder`, the hub's own cache, or downloaded to the former.

    Processes that need the same file wait for each other.

    Raises:
        ValueError: the file cannot be downloaded, or its checksum is wrong; one line that names it and the way out.
    """
    target = checkpoints_folder() / file.name
    cached = try_to_load_from_cache(file.repo, file.name, revision=file.revision)
    for found in (target, Path(cached) if isinstance(cached, str) else None):
        if found is not None and found.is_file():
            _verify(found, file.sha256 or _checksum(found.resolve().name), "remove it, or put the official file there")
            return found
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{file.name}.lock")):
            if not target.is_file():
                _download(file, target)
    except OSError as error:
        raise ValueError(f"{target}: cannot be written ({error.strerror or error})") from None
    return target


def _download(file: HubFile, target: Path) -> None:
    """Downloads to ``target``. What a download that was cut off has left is continued by the next one."""
    url = hf_hub_url(file.repo, file.name, revision=file.revision)
    try:
        metadata = get_hf_file_metadata(url)
        partial = target.with_name(f".{file.name}.{metadata.etag}.incomplete")
        size = partial.stat().st_size if partial.exists() else 0
        if metadata.size is not None and size > metadata.size:
            partial.unlink()
            size = 0
        logger.info("downloading %s of %s to %s", file.name, file.repo, target.parent)
        is_same_host = urlsplit(metadata.location).netloc == urlsplit(url).netloc
        with partial.open("ab") as stream:
            http_get(
                metadata.location,
                stream,
                resume_size=size,
                headers=build_hf_headers() if is_same_host else {},  # no token for others, such as a CDN
                expected_size=metadata.size,
                displayed_filename=file.name,
            )
    except Exception as error:  # the hub's library has errors of its own, and its HTTP library too
        raise ValueError(_advice(file, target, error)) from None
    try:
        _verify(partial, file.sha256 or _checksum(metadata.etag), "it was removed: try again")
    except ValueError:
        partial.unlink()
        raise
    partial.rename(target)


def _checksum(etag: str | None) -> str | None:
    """Returns an ETag if it is a checksum. Files in the cache of the hub's library have it as their name."""
    return etag if SHA256.fullmatch(etag or "") else None


def _advice(file: HubFile, target: Path, error: Exception) -> str:
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    if constants.is_offline_mode():
        reason = "HF_HUB_OFFLINE is set"
    return (
        f"{file.name} cannot be downloaded from {constants.ENDPOINT}/{file.repo} ({reason}); "
        f"put the file into {target.parent}, or let HF_ENDPOINT name a mirror"
    )


def _verify(path: Path, sha256: str | None, advice: str) -> None:
    """Raises ValueError if a file does not have this checksum. None, which is not known, allows any."""
    if sha256 is None:
        logger.info("%s: its checksum is not known and was not compared", path)
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise ValueError(f"{path}: damaged or another file, SHA-256 is {found}, must be {sha256}; {advice}")
