"""Codebook usage and reconstructions, on the demo's and a golden image tokenizer."""

from __future__ import annotations

import json
import math
import sys
import types
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tests.helpers.fid import fid_of_few
from tests.helpers.image_files import noise
from tests.helpers.taming import random_taming

from llamagen_server.cli import main as cli
from llamagen_server.cli.tokenizer_eval import split_words
from llamagen_server.engine import cpu
from llamagen_server.evaluation.codebook import CodebookUsage
from llamagen_server.evaluation.features import FeatureExtractor
from llamagen_server.evaluation.image_sets import open_images
from llamagen_server.evaluation.reconstruction import psnr, ssim
from llamagen_server.evaluation.tokenizer import TokenizerEvaluation, load_lpips
from llamagen_server.pipeline.build import DEMO_MODEL
from llamagen_tokenizer import VQConfig, VQModel, from_uint8, load_vq, load_vq_pt, to_uint8


@pytest.fixture(autouse=True)
def keep_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line tunes the process that it runs in, which here is that of all tests."""
    monkeypatch.setattr(cpu, "tune_process", lambda vq_parameters: 2)


@pytest.fixture(scope="module", params=["demo", "golden"])
def vq(request: pytest.FixtureRequest, golden_args: Callable[[str], dict[str, Path]]) -> VQModel:
    if request.param == "demo":
        return load_vq(DEMO_MODEL / "vq")
    flags = golden_args("tiny_c2i")
    return load_vq_pt(flags["vq_ckpt"], VQConfig.from_json(flags["vq_config"]))


def test_usage_equals_a_direct_count(vq: VQModel) -> None:
    images = noise(7, 64, 64)
    evaluation = TokenizerEvaluation(vq)
    figures = evaluation.run([images[:3], images[3:6], images[6:]], workers=2)
    codes: Counter[int] = Counter()
    with torch.inference_mode():
        for image in images:
            codes.update(vq.encode(from_uint8(torch.tensor(image[None]))).flatten().tolist())
    total = sum(codes.values())
    entropy = -sum(n / total * math.log(n / total) for n in codes.values())
    assert {code: n for code, n in enumerate(evaluation.usage.counts.tolist()) if n} == dict(codes)
    assert total == 7 * (64 // vq.config.downsample) ** 2
    assert figures["codes_used"] == len(codes) > 5
    assert figures["usage"] == pytest.approx(len(codes) / vq.config.codebook_size)
    assert figures["perplexity"] == pytest.approx(math.exp(entropy))


def test_usage_of_known_codes() -> None:
    usage = CodebookUsage(8)
    usage.add(np.array([[0, 3], [3, 0]]))
    usage.add(np.array([7, 7, 5, 5]))
    assert usage.counts.tolist() == [2, 0, 0, 2, 0, 2, 0, 2]
    assert (usage.used, usage.share) == (4, 0.5)
    assert usage.perplexity == pytest.approx(4)


def hand_made_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Structural similarity of one channel, window by window."""
    weights = np.array(
        [[math.exp(-((i - 5) ** 2 + (j - 5) ** 2) / (2 * 1.5**2)) for j in range(11)] for i in range(11)]
    )
    weights /= weights.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for i in range(a.shape[0] - 10):
        for j in range(a.shape[1] - 10):
            x, y = a[i : i + 11, j : j + 11], b[i : i + 11, j : j + 11]
            mean_x, mean_y = (weights * x).sum(), (weights * y).sum()
            var_x, var_y = (weights * (x - mean_x) ** 2).sum(), (weights * (y - mean_y) ** 2).sum()
            covariance = (weights * (x - mean_x) * (y - mean_y)).sum()
            luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
            values.append(luminance * (2 * covariance + c2) / (var_x + var_y + c2))
    return float(np.mean(values))


def channels_first(images: np.ndarray) -> torch.Tensor:
    return torch.tensor(images).permute(0, 3, 1, 2).float()


def test_ssim_equals_a_hand_made_reference() -> None:
    a = noise(2, 16, 19)
    difference = np.random.default_rng(0).integers(-30, 30, a.shape)
    b = (a.astype(int) + difference).clip(0, 255).astype(np.uint8)
    found = ssim(channels_first(a), channels_first(b))
    for i in range(2):
        expected = np.mean([hand_made_ssim(a[i, ..., c].astype(float), b[i, ..., c].astype(float)) for c in range(3)])
        assert found[i].item() == pytest.approx(expected, abs=1e-9)
    assert 0.1 < found.mean() < 0.99
    assert ssim(channels_first(a), channels_first(a)).tolist() == pytest.approx([1, 1])
    with pytest.raises(ValueError, match="SSIM needs at least 11x11"):
        ssim(torch.zeros(1, 3, 10, 20), torch.zeros(1, 3, 10, 20))


def test_psnr_of_a_constant_difference() -> None:
    a, b = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    b[0] += 10
    assert psnr(a, b).tolist() == pytest.approx([20 * math.log10(25.5), 100])


@pytest.mark.slow
def test_rfid_compares_images_with_reconstructions(extractor: FeatureExtractor) -> None:
    vq = load_vq(DEMO_MODEL / "vq")
    images = noise(5, 32, 32)
    evaluation = TokenizerEvaluation(vq, extractor, sheet_images=3)
    figures = evaluation.run([images[:2], images[2:]])
    reconstructions = np.concatenate([evaluation.measure(part).reconstructions for part in (images[:2], images[2:])])
    originals, decoded = extractor([images]), extractor([reconstructions])
    assert figures["rfid"] == pytest.approx(fid_of_few(originals.pooled, decoded.pooled), rel=1e-4)
    assert figures["rsfid"] == pytest.approx(fid_of_few(originals.spatial, decoded.spatial), rel=1e-4)
    sheet = evaluation.sheet()
    assert sheet.shape == (2 * 40 + 8, 3 * 40 + 8, 3)
    np.testing.assert_array_equal(sheet[8:40, 48:80], images[1])
    np.testing.assert_array_equal(sheet[48:80, 48:80], reconstructions[1])


def test_lpips_is_used_if_it_is_installed(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "lpips", None)
    with caplog.at_level("INFO", "llamagen_server"):
        assert load_lpips(torch.device("cpu")) is None
    assert "LPIPS is left out" in caplog.text

    class Distance(torch.nn.Module):
        def __init__(self, net: str, verbose: bool) -> None:
            super().__init__()
            assert (net, verbose) == ("vgg", False)

        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            assert a.min() >= -1
            assert a.max() > 0
            return (a - b).abs().mean((1, 2, 3), keepdim=True)

    monkeypatch.setitem(sys.modules, "lpips", types.SimpleNamespace(LPIPS=Distance))
    evaluation = TokenizerEvaluation(load_vq(DEMO_MODEL / "vq"), lpips=load_lpips(torch.device("cpu")))
    images = noise(3, 32, 32)
    figures = evaluation.run([images])
    difference = images.astype(float) - evaluation.measure(images).reconstructions
    assert figures["lpips"] == pytest.approx(abs(difference).mean() / 127.5, rel=1e-4)


def test_the_command_writes_report_sheet_and_histogram(tmp_path: Path) -> None:
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    for i, image in enumerate(noise(3, 200, 150)):
        Image.fromarray(image).save(folder / f"{i}.jpg")
    cli.main(["tokenizer", "eval", str(folder), f"--out={out}", "--batch-size=2", "--sheet-images=2"])
    report = json.loads((out / "report.json").read_text())
    assert report["image tokenizer"] == {"name": "llamagen-demo", "codes": 1893, "downsampling": 16}
    assert report["images"]["images"] == 3
    assert report["images"]["resize"].startswith("to 128x128")
    assert {"psnr", "ssim", "codes_used", "usage", "perplexity"} <= set(report["figures"])
    assert "| PSNR, dB |" in (out / "report.md").read_text()
    for name, size in (("reconstructions.png", (2 * 136 + 8, 2 * 136 + 8)), ("codebook.png", (1500, 600))):
        with Image.open(out / name) as image:
            assert (image.format, image.size) == ("PNG", size)


def test_images_may_be_compared_at_another_size(
    golden_dir: Path, golden_args: Callable[[str], dict[str, Path]]
) -> None:
    """Reconstructions are resized before they are rounded, as the official script does it."""
    expected = load_file(golden_dir / "expected.safetensors")
    flags = golden_args("tiny_c2i")
    vq = load_vq_pt(flags["vq_ckpt"], VQConfig.from_json(flags["vq_config"]))
    codes, resized = expected["tiny_vq.grid6_codes"].view(1, 6, 6), expected["tiny_vq.grid6_uint8"].numpy()
    evaluation = TokenizerEvaluation(vq, eval_side=32)
    evaluation.vq.encode = lambda images: codes.long()
    batch = evaluation.measure(noise(1, 48, 48))
    assert batch.images.shape == batch.reconstructions.shape == (1, 32, 32, 3)
    assert abs(batch.reconstructions.astype(int) - resized).max() <= 1


def test_a_checkpoint_needs_no_conversion(golden_args: Callable[[str], dict[str, Path]], tmp_path: Path) -> None:
    Image.fromarray(noise(1, 64, 64)[0]).save(tmp_path / "a.png")
    flags = golden_args("tiny_c2i")
    files = [f"--vq-ckpt={flags['vq_ckpt']}", f"--vq-config={flags['vq_config']}"]
    sizes = ["--image-size=64", "--image-size-eval=48", f"--reconstructions={tmp_path / 'decoded.npz'}"]
    cli.main(["tokenizer", "eval", str(tmp_path / "a.png"), *files, *sizes, f"--out={tmp_path}"])
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["image tokenizer"]["name"] == "tiny_vq.pt"
    assert report["image tokenizer"]["codes"] == 512
    assert report["images"]["compared at"] == 48
    decoded = open_images(tmp_path / "decoded.npz")
    assert (decoded.count, decoded.size) == (1, (48, 48))
    with Image.open(tmp_path / "reconstructions.png") as sheet:
        [[image]] = decoded.batches(1)
        np.testing.assert_array_equal(np.asarray(sheet)[64:112, 8:56], image)


def test_a_vqgan(tmp_path: Path) -> None:
    """A checkpoint of taming-transformers is measured like one of LlamaGen, with the codes of its own network."""
    vqgan = random_taming(32, (1, 2, 4), 1, 32, 64, 16)
    torch.save({"state_dict": vqgan.state_dict(), "epoch": 1}, tmp_path / "last.ckpt")
    shape = {"ch": 32, "encoder_ch_mult": [1, 2, 4], "decoder_ch_mult": [1, 2, 4], "num_res_blocks": 1}
    (tmp_path / "vq.json").write_text(json.dumps(shape | {"z_channels": 32}))
    pixels = noise(1, 32, 32)
    Image.fromarray(pixels[0]).save(tmp_path / "a.png")
    files = [f"--vq-ckpt={tmp_path / 'last.ckpt'}", f"--vq-config={tmp_path / 'vq.json'}", "--image-size=32"]
    cli.main(["tokenizer", "eval", str(tmp_path / "a.png"), *files, f"--out={tmp_path}"])
    figures = json.loads((tmp_path / "report.json").read_text())["figures"]
    codes = vqgan.encode(from_uint8(torch.tensor(pixels)))
    assert figures["codes_used"] == len(codes.unique()) > 5
    error = to_uint8(vqgan.decode(codes)).numpy().astype(float) - pixels
    assert figures["psnr"] == pytest.approx(20 * math.log10(255) - 10 * math.log10((error**2).mean()), abs=0.01)


def test_the_first_folder_is_the_model_if_it_has_a_config(tmp_path: Path) -> None:
    assert split_words([DEMO_MODEL, tmp_path], None) == (DEMO_MODEL, [tmp_path])
    assert split_words([DEMO_MODEL / "vq", tmp_path], None) == (DEMO_MODEL / "vq", [tmp_path])
    assert split_words([tmp_path], None) == (None, [tmp_path])
    assert split_words([Path("c2i_b_256"), tmp_path], None) == (Path("c2i_b_256"), [tmp_path])
    with pytest.raises(ValueError, match="no images are given"):
        split_words([DEMO_MODEL], None)
    with pytest.raises(ValueError, match="not both"):
        split_words([DEMO_MODEL, tmp_path], tmp_path / "vq.pt")
