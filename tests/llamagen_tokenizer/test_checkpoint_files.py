"""Files of weights: what they may hold besides tensors, and what is refused."""

from __future__ import annotations

import argparse
import datetime
import pickle
import shlex
import subprocess
import sys
import types
from collections import Counter, OrderedDict, defaultdict, deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file, save_model

from llamagen_tokenizer.checkpoint_files import CheckpointError, load_checkpoint, load_safetensors
from llamagen_tokenizer.stand_ins import NumpyArray

WEIGHTS = {"a": torch.arange(4.0), "b": torch.ones(2, 3, dtype=torch.bfloat16)}

HARMLESS = {
    "namespaces": (argparse.Namespace(lr=0.1, ema=True), types.SimpleNamespace(epoch=3)),
    "scalars": (np.float64(0.5), np.int64(3), np.float32(1), np.bool_(True), np.str_("x"), np.complex64(1j)),
    "arrays": np.arange(3),
    "random state": np.random.RandomState(0).get_state(),
    "containers": (OrderedDict(a=1), Counter("aab"), {1, 2}, frozenset({3}), [b"bytes", (1, 2j)], bytearray(b"x")),
    "defaultdict": defaultdict(list, {"loss": [0.1]}),
    "deque": deque([1, 2], maxlen=5),
    "torch": (torch.float16, torch.Size([2]), torch.device("cpu"), torch.nn.Parameter(torch.zeros(1))),
}


@pytest.mark.parametrize("kind", HARMLESS)
def test_harmless_entries(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "0000003.pt"
    torch.save({"model": WEIGHTS, "extra": HARMLESS[kind]}, path)
    content: Any = load_checkpoint(path)
    assert torch.equal(content["model"]["a"], WEIGHTS["a"])
    assert len(str(content["extra"])) > 0


def test_values_of_harmless_entries(tmp_path: Path) -> None:
    scalars = [np.float64(0.5), np.int8(-3), np.float32(2), np.bool_(True), np.str_("\u00e9"), np.complex64(1j)]
    order = [np.dtype(">i4").type(7), np.array([7], ">i4")[0], np.array([7], ">f8")[0]]
    extra = {"scalars": [*scalars, *order], "history": defaultdict(list, {"loss": [0.1]}), "last": deque([1, 2])}
    torch.save(extra, tmp_path / "a.pt")
    expected = [0.5, -3, 2.0, True, "\u00e9", 1j, 7, 7, 7.0]
    assert load_checkpoint(tmp_path / "a.pt") == {"scalars": expected, "history": {"loss": [0.1]}, "last": [1, 2]}


class Hostile:
    """An array of objects over bytes, whose objects would be read at an address that the file chooses."""

    def __reduce__(self) -> tuple[Any, ...]:
        return np.ndarray, ((1,), np.dtype("O"), b"A" * 8)


class HostileScalar:
    def __reduce__(self) -> tuple[Any, ...]:
        return np.float64(0).__reduce__()[0], (np.dtype([("a", "O")]), b"A" * 8)


@pytest.mark.parametrize("value", [Hostile(), HostileScalar(), np.datetime64("2024-06-10")])
def test_numpy_makes_nothing_from_the_bytes_of_a_file(tmp_path: Path, value: object) -> None:
    torch.save({"model": WEIGHTS, "extra": value}, tmp_path / "a.pt")
    extra = load_checkpoint(tmp_path / "a.pt")["extra"]
    assert extra is None or isinstance(extra, NumpyArray)


def test_names_of_old_numpy(tmp_path: Path) -> None:
    """NumPy before 2 pickled its functions in ``numpy.core``."""
    torch.save({"best": np.float64(0.5)}, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    old = (tmp_path / "a.pt").read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    (tmp_path / "a.pt").write_bytes(old)
    assert load_checkpoint(tmp_path / "a.pt") == {"best": 0.5}


REFUSED = {
    "path": (Path("runs/3"), r"pathlib\S*\.PosixPath"),
    "date": (datetime.datetime(2024, 6, 10), r"datetime\.datetime"),
    "function": (print, r"print"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_classes_come_with_the_line_that_saves_the_weights_alone(tmp_path: Path, kind: str) -> None:
    value, name = REFUSED[kind]
    path = tmp_path / "it's my \u00e9poque 3.pt"
    torch.save({"model": WEIGHTS, "ema": WEIGHTS, "args": argparse.Namespace(out=value), "best": value}, path)
    with pytest.raises(CheckpointError, match=rf"not a checkpoint of plain tensors \(it holds a {name}\)") as error:
        load_checkpoint(path)
    assert "\n" not in str(error.value)
    advice, command = str(error.value).rsplit("save the weights alone: ", 1)
    assert "if you trust the file, for this runs code from it" in advice
    program, *arguments = shlex.split(command)
    assert program == "python"
    subprocess.run([sys.executable, *arguments], check=True, timeout=60)
    content: Any = load_checkpoint(tmp_path / "it's my \u00e9poque 3-weights.pt")
    assert content.keys() == {"model", "ema"}
    assert torch.equal(content["ema"]["b"], WEIGHTS["b"])


def test_the_line_saves_a_state_dict_without_entries_too(tmp_path: Path) -> None:
    torch.save({**WEIGHTS, "saved": datetime.datetime(2024, 6, 10)}, tmp_path / "flat.pt")
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(tmp_path / "flat.pt")
    command = shlex.split(str(error.value).rsplit("save the weights alone: ", 1)[1])
    subprocess.run([sys.executable, *command[1:]], check=True, timeout=60)
    assert load_checkpoint(tmp_path / "flat-weights.pt").keys() == WEIGHTS.keys()


def test_the_line_saves_the_weights_of_a_whole_module(tmp_path: Path) -> None:
    module = torch.nn.Linear(2, 2)
    for name, content in {"module": module, "entry": {"model": module, "epoch": 3}}.items():
        torch.save(content, tmp_path / f"{name}.pt")
        with pytest.raises(CheckpointError, match=r"it holds a torch\.nn\.modules\.linear\.Linear") as error:
            load_checkpoint(tmp_path / f"{name}.pt")
        command = shlex.split(str(error.value).rsplit("save the weights alone: ", 1)[1])
        subprocess.run([sys.executable, *command[1:]], check=True, timeout=60)
        saved: Any = load_checkpoint(tmp_path / f"{name}-weights.pt")
        assert saved.get("model", saved).keys() == {"weight", "bias"}


class Malicious:
    """Prints when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("code from the checkpoint was run",)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": Malicious()}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint of plain tensors"):
        load_checkpoint(tmp_path / "evil.pt")
    (tmp_path / "evil2.pt").write_bytes(pickle.dumps(Malicious(), protocol=2))
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "evil2.pt")
    assert "was run" not in capsys.readouterr().out


def test_shards_of_distributed_tensors(tmp_path: Path) -> None:
    from torch.distributed._shard.sharded_tensor import ShardedTensor

    torch.save({"model": {"a": ShardedTensor}}, tmp_path / "rank0.pt")
    with pytest.raises(CheckpointError, match=r"rank0\.pt: holds the shards of one process .*; save the full state"):
        load_checkpoint(tmp_path / "rank0.pt")


def test_newer_pickles_come_with_the_line_too(tmp_path: Path) -> None:
    """torch's unpickler knows protocol 2 only; a warning about it does not reach the user."""
    torch.save({"model": WEIGHTS}, tmp_path / "four.pt", pickle_protocol=4)
    with pytest.raises(
        CheckpointError, match=r"plain tensors \(weights-only loading refuses it\); .*python -c 'import"
    ):
        load_checkpoint(tmp_path / "four.pt")


def test_content_that_is_no_mapping(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match=r"list\.pt: holds a list, expected a state dict"):
        load_checkpoint(tmp_path / "list.pt")


def test_content_decides_the_format(tmp_path: Path) -> None:
    """In the cache of the Hugging Face hub, files are links to files without a suffix."""
    save_file(WEIGHTS, tmp_path / "0a1b2c")
    torch.save(WEIGHTS, tmp_path / "3d4e5f")
    for name, blob in {"wrong.pt": "0a1b2c", "right.safetensors": "0a1b2c", "right.bin": "3d4e5f"}.items():
        (tmp_path / name).symlink_to(blob)
        (tmp_path / name).chmod(0o444)
        content: Any = load_checkpoint(tmp_path / name)
        assert all(torch.equal(content[key], value) for key, value in WEIGHTS.items())


def test_missing_files(tmp_path: Path) -> None:
    (tmp_path / "link.pt").symlink_to("../blobs/0a1b2c")
    for name, message in {
        "nothing.pt": "no such file",
        "link.pt": r"a link to \.\./blobs/0a1b2c, which is missing",
        "": r"cannot be read \(Is a directory\)",
    }.items():
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(tmp_path / name)
        with pytest.raises(CheckpointError, match=message):
            load_safetensors(tmp_path / name)


def test_torch_file_where_safetensors_are_expected(tmp_path: Path) -> None:
    torch.save(WEIGHTS, tmp_path / "model.safetensors")
    for load in (load_checkpoint, load_safetensors):
        with pytest.raises(CheckpointError, match=r"model\.safetensors: a torch file, rename it to end in \.pt"):
            load(tmp_path / "model.safetensors")


def test_names_of_a_tied_tensor(tmp_path: Path) -> None:
    """``save_model`` stores one of them and states the other in the metadata."""
    module = torch.nn.ModuleDict({"one": torch.nn.Linear(2, 2), "two": torch.nn.Linear(2, 2)})
    module["two"].weight = module["one"].weight
    save_model(module, str(tmp_path / "tied.safetensors"))
    tensors = load_safetensors(tmp_path / "tied.safetensors")
    assert tensors.keys() == module.state_dict().keys()
    assert torch.equal(tensors["two.weight"], module["one"].weight)


def test_tensors_are_mapped(tmp_path: Path) -> None:
    """Changes of the file are seen through a tensor of it, for none of it was copied."""
    torch.save({"a": torch.zeros(5000)}, tmp_path / "a.pt")
    save_file({"a": torch.zeros(5000)}, tmp_path / "a.safetensors")
    for path in sorted(tmp_path.iterdir()):
        tensor: Any = load_checkpoint(path)["a"]
        data = path.read_bytes()
        with path.open("r+b") as file:
            file.seek(data.rindex(bytes(20000)))
            file.write(torch.ones(5000).numpy().tobytes())
        assert tensor.sum() == 5000, path.name
