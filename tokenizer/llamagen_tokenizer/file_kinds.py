"""Tells files of weights from other files that end up under their names, such as a failed download."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

_MAGIC = {
    b"version https://git-lfs.github.com/spec/": "a Git-LFS pointer; run `git lfs pull` in the repository it is from",
    b"GGUF": "a GGUF file of llama.cpp; the checkpoint that it was made from is needed",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file (Keras); a PyTorch checkpoint is needed",
    b"\x93NUMPY": "a NumPy array; a PyTorch checkpoint is needed",
    b"\x1f\x8b": "a gzip archive; unpack it first",
    b"\x28\xb5\x2f\xfd": "a zstd archive; unpack it first",
    b"\xfd7zXZ\x00": "an xz archive; unpack it first",
    b"BZh": "a bzip2 archive; unpack it first",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive; unpack it first",
}
"""First bytes of other files -> description."""

_TAR = (257, b"ustar")
"""Where a tar archive has its mark."""

_TENSORFLOW_END = b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"
"""Last bytes of a TensorFlow ``.index`` file (LevelDB's table format)."""

INCOMPLETE = "incomplete, its end is missing; download or copy it again"
_HEAD = 512
_MAX_SAFETENSORS_HEADER = 100_000_000


def is_zip(path: Path) -> bool:
    """Whether it is a zip file, as torch writes since 1.6; older checkpoints are plain pickles."""
    return _head(path).startswith(b"PK\x03\x04")


def is_safetensors(path: Path) -> bool:
    """Whether it starts as a safetensors file does: with the length of a header, and the header's brace."""
    head = _head(path)
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _MAX_SAFETENSORS_HEADER


def problem_of(path: Path) -> str | None:
    """Says what a file is that cannot hold weights and what to do about it, or that its end is missing.

    Returns:
        A phrase such as "an empty file"; None if the file may be a checkpoint of torch or a safetensors file. Only
        the start, the end and the directory of a zip file are read.

    Raises:
        OSError: the file cannot be read.
    """
    head = _head(path)
    if not head:
        return "an empty file; download or copy it again"
    if not any(head):
        return "a file of zeros; the download is incomplete"
    for magic, description in _MAGIC.items():
        if head.startswith(magic):
            return description
    if is_zip(path):
        return _problem_of_zip(path)
    if is_safetensors(path):
        return _problem_of_safetensors(path)
    if head[_TAR[0] :].startswith(_TAR[1]):
        return "a tar archive; unpack it first"
    if _tail(path) == _TENSORFLOW_END:
        return "a TensorFlow checkpoint; a PyTorch checkpoint is needed"
    return _problem_of_text(head)


def _problem_of_zip(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as file:
            names = file.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return INCOMPLETE
    inside = {name.rsplit("/", 1)[-1] for name in names}
    if "data.pkl" not in inside:
        return f"a zip archive of other files ({', '.join(names[:3])}); unpack it first"
    if "constants.pkl" in inside:
        return "a TorchScript program; save the state dict of the model"
    return None


def _problem_of_safetensors(path: Path) -> str | None:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length)
    if len(header) < length:
        return INCOMPLETE
    try:
        tensors = json.loads(header)
        end = 8 + length + max(tensor["data_offsets"][1] for name, tensor in tensors.items() if name != "__metadata__")
        return f"incomplete, it has {size} of {end} bytes; download or copy it again" if size < end else None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def _problem_of_text(head: bytes) -> str | None:
    text = " ".join(head.decode("utf-8-sig", "replace").split())
    if "\ufffd" in text[:-1] or not text.isprintable():
        return None
    if text.startswith("<"):
        return f"a web page, the download failed (it starts with {text[:40]!r})"
    return f"{'JSON' if text[:1] in ('{', '[') else 'text'}, no weights (it starts with {text[:40]!r})"


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD)


def _tail(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - len(_TENSORFLOW_END), 0))
        return file.read()
