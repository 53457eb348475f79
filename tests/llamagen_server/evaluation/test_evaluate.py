"""Evaluations from end to end, with an Inception network that is not trained and a tiny random CLIP model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tests.helpers.fid import fid_of_few
from tests.helpers.image_files import noise
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, PreTrainedTokenizerFast

from llamagen_server.cli import main as cli
from llamagen_server.engine import cpu
from llamagen_server.evaluation.clip_score import PREFIX, ClipScorer
from llamagen_server.evaluation.evaluate import read_captions
from llamagen_server.evaluation.features import FeatureExtractor
from llamagen_server.evaluation.image_sets import open_images
from llamagen_server.evaluation.npz_images import npz_writer
from llamagen_server.evaluation.paper import differences, find_paper_model
from llamagen_server.evaluation.settings import file_sha256
from llamagen_server.evaluation.statistics import Statistics
from llamagen_server.hub.catalogue import MODELS

CAPTIONS = ["a red circle", "the blue square", "a photo of the cat and a dog", "green"]


@pytest.fixture(autouse=True)
def keep_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line tunes the process that it runs in, which here is that of all tests."""
    monkeypatch.setattr(cpu, "tune_process", lambda parameters: 1)


@pytest.fixture(scope="module")
def clip_dir(
    word_tokenizer: Callable[[list[str], str], PreTrainedTokenizerFast], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A CLIP model of random weights, with a tokenizer of whole words."""
    directory = tmp_path_factory.mktemp("clip")
    tokenizer = word_tokenizer(["<pad>", "<s>", "</s>", "<unk>"], "<s> $A </s>")
    tokenizer.save_pretrained(directory)
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": 12, "bos_token_id": 1, "eos_token_id": 2}
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {"image_size": 16, "patch_size": 8}
    config = CLIPConfig(text_config=text | sizes, vision_config=vision | sizes, projection_dim=24)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        CLIPModel(config).save_pretrained(directory)
    CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(directory)
    return directory


def independent_clip_score(directory: Path, images: np.ndarray, captions: list[str]) -> float:
    """Pair by pair, with the parts of the model, and the preprocessing written out."""
    model = CLIPModel.from_pretrained(directory).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(directory)
    processor = json.loads((directory / "preprocessor_config.json").read_text())
    mean, std = (np.array(processor[name]) for name in ("image_mean", "image_std"))
    scores = []
    for pixels, caption in zip(images, captions):
        small = Image.fromarray(pixels).resize((16, 16), Image.Resampling.BICUBIC)
        values = torch.tensor((np.asarray(small) / 255 - mean) / std, dtype=torch.float32).permute(2, 0, 1)[None]
        ids = tokenizer(PREFIX + caption)["input_ids"]
        ids = torch.tensor([ids if len(ids) <= 12 else [*ids[:11], ids[-1]]])  # cut off, the end token stays
        with torch.inference_mode():
            seen = model.visual_projection(model.vision_model(pixel_values=values).pooler_output)[0].double()
            read = model.text_projection(model.text_model(input_ids=ids).pooler_output)[0].double()
        scores.append(float(seen @ read / (seen.norm() * read.norm())))
    return sum(scores) / len(scores)


def test_clip_score_equals_an_independent_computation(clip_dir: Path) -> None:
    images = noise(4, 40, 40)
    scorer = ClipScorer(clip_dir, torch.device("cpu"))
    found = scorer([images[:3], images[3:]], CAPTIONS)
    assert found == pytest.approx(independent_clip_score(clip_dir, images, CAPTIONS), abs=1e-4)
    assert found != pytest.approx(scorer([images], CAPTIONS[::-1]), abs=1e-3)


def test_a_folder_without_a_clip_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no CLIP model here"):
        ClipScorer(tmp_path, torch.device("cpu"))


def test_captions_come_from_a_file_or_from_png_files(tmp_path: Path) -> None:
    np.savez(tmp_path / "samples.npz", arr_0=noise(4, 8, 8))
    images, file = open_images(tmp_path / "samples.npz"), tmp_path / "captions.txt"
    with pytest.raises(ValueError, match="4 of 4 images have no caption"):
        read_captions(images, None)
    file.write_text("\n".join(CAPTIONS) + "\n")
    assert read_captions(images, file) == CAPTIONS
    file.write_text("one\n")
    with pytest.raises(ValueError, match="1 lines for 4 images"):
        read_captions(images, file)


@pytest.mark.slow
def test_the_command_evaluates_samples_against_a_reference(
    inception_file: Path, extractor: FeatureExtractor, clip_dir: Path, tmp_path: Path
) -> None:
    samples, real = noise(6, 48, 48, seed=1), noise(8, 48, 48, seed=2)
    file, reference, captions = tmp_path / "samples.npz", tmp_path / "reference.npz", tmp_path / "captions.txt"
    settings = {"model": "models/c2i_B_256", "cfg_scale": 1.5, "top_k": 0}
    with npz_writer(file, (6, 48, 48, 3), settings) as add:
        add(samples)
    np.savez(reference, arr_0=real)
    captions.write_text("a red circle\n" * 6)
    files = ["--reference", reference, "--inception", inception_file, "--clip", clip_dir, "--captions", captions]
    cli.main(["eval", str(file), *map(str, files), "--batch-size=4", f"--out={tmp_path / 'out'}"])
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    figures = report["figures"]
    own, other = extractor([samples]), extractor([real])
    assert figures["fid"] > 0.1
    assert figures["fid"] == pytest.approx(fid_of_few(own.pooled, other.pooled), rel=1e-5)
    assert figures["sfid"] == pytest.approx(fid_of_few(own.spatial, other.spatial), rel=1e-5)
    assert 0 <= figures["precision"] <= 1
    assert 0 <= figures["recall"] <= 1
    assert figures["inception_score"] >= 1
    assert -1 <= figures["clip_score"] <= 1
    assert report["samples"] == {
        "name": "samples.npz",
        "sha256": file_sha256(file),
        "images": 6,
        "size": "48x48",
        "resize": "none",
        "settings": settings,
    }
    assert report["reference"]["sha256"] == file_sha256(reference)
    assert report["reference"]["statistics"] == "computed from the images"
    assert report["inception"]["sha256"] == file_sha256(inception_file)
    assert "bilinear to 299x299 as TensorFlow 1" in report["inception"]["resize"]
    assert report["paper"] == {"model": "c2i-B-256", "fid": 5.46, "inception_score": 193.6, "cfg_scale": 2.0}
    assert report["differences"] == [
        "cfg_scale is 1.5, the paper's 2",
        "6 images, the paper's figure has 50000",
        "images of 48x48 pixels, the paper's figure has 256x256",
    ]
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| FID | " in text
    assert " | 5.460 |" in text
    assert " | 193.6 |" in text
    assert file_sha256(reference) in text


@pytest.mark.slow
def test_stored_statistics_are_used_and_may_stand_alone(
    inception_file: Path, extractor: FeatureExtractor, tmp_path: Path
) -> None:
    samples, out = noise(5, 32, 32, seed=1), tmp_path / "out"
    np.savez(tmp_path / "samples.npz", arr_0=samples)
    own = extractor([samples])
    stored = Statistics.of(own.pooled)
    np.savez(tmp_path / "reference.npz", mu=stored.mean + 1, sigma=stored.covariance)
    arguments = ["--reference", tmp_path / "reference.npz", "--inception", inception_file, "--out", out]
    cli.main(["eval", str(tmp_path / "samples.npz"), *map(str, arguments)])
    report = json.loads((out / "report.json").read_text())
    assert set(report["figures"]) == {"fid", "inception_score"}
    assert report["figures"]["fid"] == pytest.approx(2048, rel=1e-4)  # every mean differs by one
    assert report["reference"]["statistics"] == "stored in the file"
    assert report["paper"] is None


def test_png_files_bring_captions_and_settings(clip_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    images = noise(4, 20, 20)
    for i in range(4):
        info = PngInfo()
        info.add_text("prompt", CAPTIONS[i])
        info.add_text("settings", json.dumps({"cfg_scale": 7.5}))
        Image.fromarray(images[i]).save(folder / f"{i}.png", pnginfo=info)
    cli.main(["eval", str(folder), f"--clip={clip_dir}", f"--out={tmp_path}", "--image-size=16"])
    report = json.loads((tmp_path / "report.json").read_text())
    assert set(report["figures"]) == {"clip_score"}
    assert report["samples"]["settings"] == {"cfg_scale": 7.5}
    assert report["samples"]["resize"].startswith("to 16x16")
    assert report["inception"] is None
    assert report["clip"] == {"name": clip_dir.name, "before each caption": PREFIX}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to measure: give --inception, --clip or both"),
        (["--reference", "x.npz"], "--reference needs --inception"),
        (["--inception", "nothing.pth", "--batch-size", "0"], "--batch-size is 0, must be at least 1"),
        (["--inception", "nothing.pth"], "samples.npz does not exist"),
        (["--inception", "nothing.pth", "--model", "c2i-B-512"], "--model c2i-B-512: the paper has no FID of it"),
    ],
)
def test_wrong_arguments_are_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["eval", str(tmp_path / "samples.npz"), *arguments])
    assert end.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_models_of_the_paper_are_found_by_name_and_path() -> None:
    assert find_paper_model("runs/c2i_xl_384") == "c2i-XL-384"
    assert find_paper_model("llamagen-demo") is None
    assert find_paper_model(None) is None
    assert find_paper_model("t2i-XL-stage1-256") is None  # it has no figure
    assert differences(MODELS["c2i-3B-384"], {"cfg_scale": 1.65, "top_k": 0}, 50_000, (256, 256)) == []


def test_the_page_has_the_figures_of_the_catalogue(root: Path) -> None:
    page = (root / "docs" / "evaluation.md").read_text()
    figures = {name: model for name, model in MODELS.items() if model.fid}
    assert len(figures) == 7
    for name, model in figures.items():
        scale = model.cfg_scale or "not stated"
        assert f"| `{name}` | {scale} | {model.fid:.2f} | {model.inception_score} |" in page
