"""What is said of files that are no checkpoints."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from llamagen_tokenizer.checkpoint_files import CheckpointError, load_checkpoint
from llamagen_tokenizer.file_kinds import problem_of


def zipped(name: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        file.writestr(name, "x")
    return data.getvalue()


def tarred() -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as file:
        file.addfile(tarfile.TarInfo("c2i_B_256.pt"))
    return data.getvalue()


FILES = {
    "empty": (b"", "an empty file; download or copy it again"),
    "zeros": (bytes(2000), "a file of zeros; the download is incomplete"),
    "git lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4a524566\nsize 365449072\n",
        "a Git-LFS pointer; run `git lfs pull` in the repository it is from",
    ),
    "html": (b"\n<!DOCTYPE html>\n<html>", "a web page, the download failed (it starts with '<!DOCTYPE html> <html>')"),
    "xml": (b"<?xml version='1.0'?><Error>", "a web page, the download failed (it starts with "),
    "json": (b'{"error": "Repository not found"}', 'JSON, no weights (it starts with \'{"error": '),
    "text": ("Entry not found \u00e9".encode(), "text, no weights (it starts with 'Entry not found \u00e9')"),
    "tensorflow state": (
        b'model_checkpoint_path: "model.ckpt-1"',
        "text, no weights (it starts with 'model_checkpoint",
    ),
    "tensorflow": (b"\x00\x01\x02" + bytes(600) + b"\x57\xfb\x80\x8b\x24\x75\x47\xdb", "a TensorFlow checkpoint; "),
    "gguf": (b"GGUF\x03\x00\x00\x00", "a GGUF file of llama.cpp; "),
    "hdf5": (b"\x89HDF\r\n\x1a\n\x00", "an HDF5 file (Keras); "),
    "numpy": (b"\x93NUMPY\x01\x00", "a NumPy array; "),
    "gzip": (gzip.compress(b"x"), "a gzip archive; unpack it first"),
    "tar": (tarred(), "a tar archive; unpack it first"),
    "zip": (zipped("c2i_B_256.pt"), "a zip archive of other files (c2i_B_256.pt); unpack it first"),
    "cut zip": (zipped("archive/data.pkl")[:-30], "incomplete, its end is missing; download or copy it again"),
    "cut safetensors header": (b"\x00\x10" + bytes(6) + b'{"a": ', "incomplete, its end is missing; "),
}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("kind", FILES)
def test_other_files(tmp_path: Path, kind: str, suffix: str) -> None:
    content, problem = FILES[kind]
    path = tmp_path / f"file{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(path)
    assert str(error.value).startswith(f"{path}: {problem}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("share", [0.001, 0.01, 0.5, 0.99])
def test_cut_off_files(tmp_path: Path, share: float) -> None:
    """Files of all formats that end early are incomplete, at whatever place they end."""
    torch.save({"model": {"a": torch.zeros(3000)}}, tmp_path / "a.pt")
    torch.save({"model": {"a": torch.zeros(3000)}}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    save_file({"a": torch.zeros(3000)}, tmp_path / "a.safetensors")
    for path in tmp_path.iterdir():
        whole = path.read_bytes()
        path.write_bytes(whole[: max(int(share * len(whole)), 12)])
        with pytest.raises(CheckpointError, match=rf"{path.name}: incomplete, .*; download or copy it again"):
            load_checkpoint(path)


def test_torchscript(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as file:
        file.writestr("archive/data.pkl", "x")
        file.writestr("archive/constants.pkl", "x")
    assert problem_of(tmp_path / "script.pt") == "a TorchScript program; save the state dict of the model"


@pytest.mark.parametrize("header", [b"[]", b"{}", b'{"a": 1}', b'{"a": {"data_offsets": ["x", "y"]}}', b'{"a": ' * 40])
def test_damaged_headers(tmp_path: Path, header: bytes) -> None:
    """Of a header that makes no sense nothing is said here; reading the file fails, if anything is wrong."""
    path = tmp_path / "odd.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    assert problem_of(path) is None


@pytest.mark.parametrize("content", [b"\x80\x02broken", b"\xff\xd8\xff\xe0" + bytes(600), b"\x89PNG\r\n\x1a\n\x00"])
def test_files_of_no_known_kind(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"bad\.pt: (damaged or )?not a (torch )?checkpoint") as error:
        load_checkpoint(tmp_path / "bad.pt")
    assert "\n" not in str(error.value)
