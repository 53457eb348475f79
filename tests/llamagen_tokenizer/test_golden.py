"""The VQ model against the official code, on reference vectors."""

import json
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llamagen_tokenizer import VQConfig, VQModel, load_vq, load_vq_pt, save_vq, to_uint8


@pytest.fixture(scope="module")
def expected(golden_dir: Path) -> dict[str, torch.Tensor]:
    tensors = load_file(golden_dir / "expected.safetensors")
    return {name.removeprefix("tiny_vq."): t for name, t in tensors.items() if name.startswith("tiny_vq.")}


@pytest.fixture(scope="module")
def vq(golden_dir: Path) -> VQModel:
    spec = json.loads((golden_dir / "tiny_vq.json").read_text())
    config = VQConfig.from_dict({**spec["model_args"], "ch": spec["ch"], "num_res_blocks": spec["num_res_blocks"]})
    return load_vq_pt(golden_dir / "tiny_vq.pt", config)


def test_encode_gives_the_official_codes(vq: VQModel, expected: dict[str, torch.Tensor]) -> None:
    codes = vq.encode(expected["images"])
    assert codes.dtype == torch.int64
    assert torch.equal(codes.flatten(1), expected["encode_codes"].long())


def test_decode_gives_the_official_pixels(vq: VQModel, expected: dict[str, torch.Tensor]) -> None:
    images = vq.decode(expected["decode_codes"].view(2, 8, 8))
    torch.testing.assert_close(images, expected["decoded"], atol=1e-4, rtol=0)
    difference = (to_uint8(images).int() - expected["decoded_uint8"].int()).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() <= 0.001


def test_decode_takes_any_grid(vq: VQModel, expected: dict[str, torch.Tensor]) -> None:
    images = vq.decode(expected["grid6_codes"].view(1, 6, 6))
    torch.testing.assert_close(images, expected["grid6_decoded"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("mutation", ["codebook not normalised", "grid transposed"])
def test_mistakes_are_caught(vq: VQModel, expected: dict[str, torch.Tensor], mutation: str) -> None:
    codes = expected["decode_codes"].view(2, 8, 8)
    if mutation == "grid transposed":
        images = vq.decode(codes.transpose(1, 2))
    else:
        raw = torch.nn.functional.embedding(codes, vq.quantize.embedding.weight).permute(0, 3, 1, 2)
        images = vq.decoder(vq.post_quant_conv(raw))
    assert (images - expected["decoded"]).abs().max() > 0.5


def test_own_directory_holds_the_same_model(vq: VQModel, expected: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_vq(vq, tmp_path)
    again = load_vq(tmp_path)
    assert again.config == vq.config
    codes = expected["decode_codes"].view(2, 8, 8)
    assert torch.equal(again.decode(codes), vq.decode(codes))


def test_decoding_in_bfloat16_leaves_encoding_alone(vq: VQModel, expected: dict[str, torch.Tensor]) -> None:
    vq = deepcopy(vq).decode_in(torch.bfloat16)
    images = vq.decode(expected["decode_codes"].view(2, 8, 8))
    assert images.dtype == torch.float32
    error = (images - expected["decoded"]).square().mean()
    assert 0 < error < 4 * 10 ** (-35 / 10)  # PSNR above 35 dB, of weights that were not trained
    assert torch.equal(vq.encode(expected["images"]).flatten(1), expected["encode_codes"].long())
