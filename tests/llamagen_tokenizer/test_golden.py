"""The image tokenizer against the official code, on reference vectors."""

from collections.abc import Callable
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
def vq(golden_args: Callable[[str], dict[str, Path]]) -> VQModel:
    flags = golden_args("tiny_c2i")
    return load_vq_pt(flags["vq_ckpt"], VQConfig.from_json(flags["vq_config"]))


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


def test_saved_directory_holds_the_same_model(vq: VQModel, expected: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_vq(vq, tmp_path)
    again = load_vq(tmp_path)
    assert again.config == vq.config
    codes = expected["decode_codes"].view(2, 8, 8)
    assert torch.equal(again.decode(codes), vq.decode(codes))


def test_decoding_in_bfloat16_does_not_change_encoding(vq: VQModel, expected: dict[str, torch.Tensor]) -> None:
    vq = deepcopy(vq).decode_in(torch.bfloat16)
    images = vq.decode(expected["decode_codes"].view(2, 8, 8))
    assert images.dtype == torch.float32
    error = (images - expected["decoded"]).square().mean()
    assert 0 < error < 4 * 10 ** (-35 / 10)  # PSNR above 35 dB; the weights are random
    assert torch.equal(vq.encode(expected["images"]).flatten(1), expected["encode_codes"].long())
