"""Settings and fixtures for every test."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
from tests.helpers.encoder_files import make_word_tokenizer, write_t5

from llamagen_server.engine.environment import set_process_defaults

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Before anything imports torch or vLLM: as the command line does, and no network.
set_process_defaults()
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRITON_F32_DEFAULT", "ieee")  # on a GPU; Triton's attention would round float32 to TF32

# How long an example takes depends on the machine.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """tests/data."""
    return ROOT / "tests" / "data"


@pytest.fixture(scope="session")
def golden_dir(data_dir: Path) -> Path:
    """Tiny checkpoints and what the official code computes with them (see its README)."""
    return data_dir / "golden"


# Model directories, made from the golden checkpoints by `llamagen convert`, in float32 as the golden numbers are.

Convert = Callable[..., Path]
GoldenArgs = Callable[[str], dict[str, object]]


@pytest.fixture(scope="session")
def convert() -> Convert:
    """``convert(out, gpt_ckpt=..., top_k=5)`` runs ``llamagen convert --out OUT --gpt-ckpt ... --top-k 5``."""
    from llamagen_server.cli.convert import add_arguments, run

    def call(out: Path, **flags: object) -> Path:
        parser = argparse.ArgumentParser()
        add_arguments(parser)
        names = {name: f"--{name.replace('_', '-')}" for name in flags}
        words = [names[name] if value is True else f"{names[name]}={value}" for name, value in flags.items()]
        run(parser.parse_args([*words, f"--out={out}"]))
        return out

    return call


@pytest.fixture(scope="session")
def golden_args(golden_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> GoldenArgs:
    """``golden_args("tiny_c2i")`` returns the flags that convert this golden checkpoint together with tiny_vq."""
    folder = tmp_path_factory.mktemp("configs")
    described = json.loads((golden_dir / "tiny_vq.json").read_text())
    vq_config = folder / "vq.json"
    vq_config.write_text(json.dumps(described["model_args"] | {k: described[k] for k in ("ch", "num_res_blocks")}))

    def flags(name: str) -> dict[str, object]:
        gpt_config = folder / f"{name}.json"
        gpt_config.write_text(json.dumps(json.loads((golden_dir / f"{name}.json").read_text())["model_args"]))
        return {
            "gpt_ckpt": golden_dir / f"{name}.pt",
            "gpt_config": gpt_config,
            "vq_ckpt": golden_dir / "tiny_vq.pt",
            "vq_config": vq_config,
        }

    return flags


@pytest.fixture(scope="session")
def word_tokenizer() -> Callable[[list[str], str], PreTrainedTokenizerFast]:
    """``word_tokenizer(special, template)``: a tokenizer of whole words; ``special`` starts with the padding token."""
    return make_word_tokenizer


@pytest.fixture(scope="session")
def tiny_t5_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A T5 encoder of width 64, random weights, with a tokenizer of whole words ending in ``</s>``."""
    directory = tmp_path_factory.mktemp("t5")
    write_t5(directory, width=64, layers=2)
    return directory


@pytest.fixture(scope="session")
def class_model_dir(
    convert: Convert,
    golden_args: GoldenArgs,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """tiny_c2i: 10 classes, 512 codes, 8x8 grid, images of 64 pixels."""
    return convert(tmp_path_factory.mktemp("class") / "model", dtype="float32", **golden_args("tiny_c2i"))


@pytest.fixture(scope="session")
def text_model_dir(
    convert: Convert,
    golden_args: GoldenArgs,
    tiny_t5_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """tiny_t2i with a tiny T5: 512 codes, 8x8 grid, up to 120 text tokens of width 64."""
    out = tmp_path_factory.mktemp("text") / "model"
    return convert(out, dtype="float32", text_encoder=tiny_t5_dir, **golden_args("tiny_t2i"))


@pytest.fixture(scope="session")
def gqa_model_dir(
    convert: Convert,
    golden_args: GoldenArgs,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """tiny_c2i_gqa: as tiny_c2i with 2 key/value heads."""
    return convert(tmp_path_factory.mktemp("gqa") / "model", dtype="float32", **golden_args("tiny_c2i_gqa"))


@pytest.fixture(scope="session")
def hd100_model_dir(
    convert: Convert,
    golden_args: GoldenArgs,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """tiny_c2i_hd100: heads of size 100, 256 codes (its image tokenizer has random weights)."""
    import torch

    from llamagen_tokenizer import VQConfig, VQModel

    folder = tmp_path_factory.mktemp("hd100")
    config = VQConfig(256, 8, (1, 1, 1, 1), (1, 1, 1, 1), z_channels=32, ch=32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save({"model": VQModel(config).state_dict()}, folder / "vq.pt")
    config.to_json(folder / "vq.json")
    vq = {"vq_ckpt": folder / "vq.pt", "vq_config": folder / "vq.json"}
    return convert(folder / "model", dtype="float32", **golden_args("tiny_c2i_hd100") | vq)


@pytest.fixture(scope="session")
def demo_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server with the embedded demo model."""
    from tests.helpers.server_process import Server

    server = Server(None, tmp_path_factory.mktemp("demo") / "log")
    yield server.url
    server.kill()
