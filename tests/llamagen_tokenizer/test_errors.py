"""Errors of the image tokenizer: wrong shapes, wrong configs and damaged files."""

import argparse
import json
from pathlib import Path

import pytest
import torch

from llamagen_tokenizer import CONFIGS, CheckpointError, VQConfig, VQModel, load_vq, load_vq_pt, save_vq

TINY = VQConfig(codebook_size=16, encoder_ch_mult=(1, 1), decoder_ch_mult=(1, 1), z_channels=8, ch=32, num_res_blocks=1)


@pytest.fixture(scope="module")
def model() -> VQModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return VQModel(TINY).eval().requires_grad_(False)


def test_named_configs_have_the_official_shape() -> None:
    assert {name: config.downsample for name, config in CONFIGS.items()} == {"VQ-16": 16, "VQ-8": 8}
    with torch.device("meta"):
        parameters = sum(p.numel() for p in VQModel(CONFIGS["VQ-16"]).parameters())
    assert parameters == 71_883_403  # the 72M of the paper's table 9


def test_shapes_are_checked_with_both_numbers(model: VQModel) -> None:
    with pytest.raises(ValueError, match="width is 33, must be a positive multiple of 2"):
        model.encode(torch.zeros(1, 3, 32, 33))
    with pytest.raises(ValueError, match=r"\[3, 32, 32\], expected \[batch, 3, height, width\]"):
        model.encode(torch.zeros(3, 32, 32))
    with pytest.raises(ValueError, match=r"\[1, 4\], expected \[batch, rows, columns\]"):
        model.decode(torch.zeros(1, 4, dtype=torch.long))
    with pytest.raises(ValueError, match="code 16 is outside the codebook, which has codes 0 to 15"):
        model.decode(torch.full((1, 2, 2), 16))
    with pytest.raises(ValueError, match="code -1 is outside"):
        model.decode(torch.full((1, 2, 2), -1))


def test_configs_are_checked() -> None:
    with pytest.raises(ValueError, match="has 1 resolutions, decoder_ch_mult has 2"):
        VQConfig(encoder_ch_mult=(1,), decoder_ch_mult=(1, 1))
    with pytest.raises(ValueError, match="ch is 48, must be a multiple of 32"):
        VQConfig(ch=48)
    with pytest.raises(ValueError, match="unknown VQ config field zchannels"):
        VQConfig.from_dict({"zchannels": 3})


@pytest.mark.parametrize("key", ["ema", "model", "state_dict", None])
def test_every_place_of_the_weights_is_found(model: VQModel, tmp_path: Path, key: str | None) -> None:
    weights = {**model.state_dict(), "quantize.codebook_used": torch.zeros(4)}
    content = weights if key is None else {key: weights, "args": argparse.Namespace(lr=1e-4), "steps": 3}
    torch.save(content, tmp_path / "vq.pt")
    loaded = load_vq_pt(tmp_path / "vq.pt", TINY)
    assert torch.equal(loaded.quantize.embedding.weight, model.quantize.embedding.weight)


def test_missing_unexpected_and_misshapen_tensors_are_named(model: VQModel, tmp_path: Path) -> None:
    def load(**changes: torch.Tensor | None) -> None:
        weights = {**model.state_dict(), **changes}
        torch.save({k: v for k, v in weights.items() if v is not None}, tmp_path / "vq.pt")
        load_vq_pt(tmp_path / "vq.pt", TINY)

    load()
    with pytest.raises(CheckpointError, match=r"1 tensors are missing, first quant_conv\.bias"):
        load(**{"quant_conv.bias": None})
    with pytest.raises(CheckpointError, match="1 unexpected tensors, first discriminator"):
        load(discriminator=torch.zeros(1))
    with pytest.raises(CheckpointError, match=r"quant_conv\.bias has shape \[9\], expected \[8\]"):
        load(**{"quant_conv.bias": torch.zeros(9)})


def test_damaged_directories_are_named(model: VQModel, tmp_path: Path) -> None:
    save_vq(model, tmp_path / "vq")
    file = tmp_path / "vq" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=r"vq/model\.safetensors: incomplete"):
        load_vq(tmp_path / "vq")
    (tmp_path / "vq" / "config.json").write_text(json.dumps({"ch": 33}))
    with pytest.raises(CheckpointError, match=r"config\.json: ch is 33"):
        load_vq(tmp_path / "vq")
    with pytest.raises(CheckpointError, match="no image tokenizer here"):
        load_vq(tmp_path / "elsewhere")


def test_integer_weights_are_refused(model: VQModel, tmp_path: Path) -> None:
    weights = {**model.state_dict(), "quant_conv.bias": torch.zeros(8, dtype=torch.int8)}
    torch.save(weights, tmp_path / "int8.pt")
    with pytest.raises(CheckpointError, match=r"int8\.pt: quant_conv\.bias is int8, expected floating-point numbers"):
        load_vq_pt(tmp_path / "int8.pt", TINY)
