"""The catalogue agrees with the network's own arithmetic, its files' names and the pages."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from llamagen_server.cli import main as cli
from llamagen_server.convert.grid import OFFICIAL_NAME
from llamagen_server.hub.catalogue import MODELS, TEXT_ENCODER_PARAMETERS, TOKENIZERS
from llamagen_server.hub.table import MODEL_HEADINGS, TOKENIZER_HEADINGS, model_rows, tokenizer_rows


def test_names_are_those_of_the_files() -> None:
    for name, named in [*MODELS.items(), *TOKENIZERS.items()]:
        assert named.file.name == f"{name.replace('-', '_')}.pt"
        assert re.fullmatch("[0-9a-f]{40}", named.file.revision)
        assert named.file.sha256 is None or re.fullmatch("[0-9a-f]{64}", named.file.sha256)
    checksums = [named.file.sha256 for named in [*MODELS.values(), *TOKENIZERS.values()] if named.file.sha256]
    assert len(set(checksums)) == len(checksums) == 11


def test_models_have_the_size_in_their_name() -> None:
    for name, model in MODELS.items():
        match = OFFICIAL_NAME.fullmatch(model.file.name)
        assert match
        assert int(match[1]) == model.image_size
        assert name.split("-")[1] == model.size
        assert name.startswith({"class": "c2i", "text": "t2i"}[model.condition])
        assert TOKENIZERS[model.tokenizer].downsample == 16


@pytest.mark.parametrize(
    ("name", "millions"), [("c2i-B-256", 111), ("c2i-L-384", 343), ("c2i-XL-384", 775), ("c2i-3B-384", 3097)]
)
def test_parameters_are_the_authors(name: str, millions: int) -> None:
    assert round(MODELS[name].parameters / 1e6) == millions


def test_parameters_of_the_text_encoder() -> None:
    from transformers import T5Config, T5EncoderModel

    xl = T5Config(
        vocab_size=32128, d_model=2048, d_kv=64, d_ff=5120, num_heads=32, num_layers=24, feed_forward_proj="gated-gelu"
    )
    with torch.device("meta"):
        encoder = T5EncoderModel(xl)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == TEXT_ENCODER_PARAMETERS


def test_kv_cache_of_an_image() -> None:
    """XL at 384 pixels: 36 layers, keys and values, two branches of 1280, 577 positions, two bytes."""
    assert MODELS["c2i-XL-384"].kv_cache_bytes == 36 * 2 * 2 * 1280 * 577 * 2


@pytest.mark.parametrize(
    ("headings", "rows"), [(MODEL_HEADINGS, model_rows), (TOKENIZER_HEADINGS, tokenizer_rows)], ids=["models", "vq"]
)
def test_the_tables_of_the_pages(root: Path, headings: tuple[str, ...], rows: object) -> None:
    page = (root / ("README.md" if headings is MODEL_HEADINGS else "docs/checkpoints.md")).read_text()
    lines = [re.sub(" +", " ", f"| {' | '.join(cells)} |") for cells in [headings, *rows()]]  # type: ignore[operator]
    assert [line for line in lines if line not in page.splitlines()] == []


def test_the_command_lists_every_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["models"])
    text = capsys.readouterr().out
    for name in [*MODELS, *TOKENIZERS]:
        assert re.search(rf"^{name} ", text, re.M)
    cli.main(["models", "--json"])
    objects = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert list(objects) == [*MODELS, *TOKENIZERS]
    xl = objects["c2i-XL-384"]
    assert (xl["image_size"], xl["image_tokens"], xl["paper_fid"], xl["paper_cfg_scale"]) == (384, 576, 2.62, 1.75)
    assert xl["file"]["repo"] == "FoundationVision/LlamaGen"
    assert objects["vq-ds8-c2i"]["downsample"] == 8
