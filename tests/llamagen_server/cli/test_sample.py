"""``llamagen sample``: flags that are refused before the model loads, and a run that is killed."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from llamagen_server.cli import main as cli
from llamagen_server.core.sampling import OFFICIAL_DEFAULTS
from llamagen_server.sample.settings import paper_preset

NUM_IMAGES = 80


def fails(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    """Runs a command that must fail with exit code 2; returns its error, which is one line."""
    with pytest.raises(SystemExit) as end:
        cli.main(["sample", *map(str, argv)])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num-images", "0"], "--num-images is 0, must be at least 1"),
        (["--shard", "3/2"], "--shard is '3/2', must be I/N"),
        (["--first-seed", "-1"], "--first-seed is -1, must be 0 to"),
        (["--cfg-scale", "-1"], "cfg_scale is -1.0: "),
        (["--class-id", "99"], "--class-id is 99, must be 0 to 9"),
        (["--captions", "a.txt"], "--captions, --column and --images-per-caption are for text models"),
        (["--image-size-eval", "0"], "--image-size-eval is 0, must be at least 1"),
        (["--preset", "paper"], "is no official model; `llamagen models` lists them"),
    ],
)
def test_wrong_flags_for_a_class_model(
    capsys: pytest.CaptureFixture[str], class_model_dir: Path, tmp_path: Path, flags: list[str], message: str
) -> None:
    assert message in fails(capsys, class_model_dir, "--out", tmp_path / "a.npz", *flags)


def test_wrong_flags_for_a_text_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = ("--out", tmp_path / "a.npz")
    assert "--captions is missing" in fails(capsys, *out)
    assert "--class-id is for class models" in fails(capsys, *out, "--class-id", 1)
    assert "does not exist" in fails(capsys, *out, "--captions", tmp_path / "none.txt")


def test_wrong_outputs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "--out" in fails(capsys)
    assert "must be a file that ends with .npz, or a folder" in fails(capsys, "--out", tmp_path / "a.png")
    assert "is given twice" in fails(capsys, "--out", tmp_path / "a.npz", "--out", tmp_path / "a.npz")
    assert "--join needs one --out F.npz" in fails(capsys, "--out", tmp_path / "a", "--join", tmp_path / "1.npz")


def test_the_papers_settings() -> None:
    assert paper_preset("c2i_B_256") == {
        "cfg_scale": 2.0,
        "cfg_interval": -1,
        "cfg_schedule": "constant",
        "cfg_min_p": 0.0,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "num_images": 50_000,
        "image_size_eval": 256,
    }
    assert paper_preset("c2i-XXL-384")["cfg_scale"] == 1.75
    text = paper_preset("t2i-XL-stage2-512")
    assert (text["cfg_scale"], text["top_k"]) == (OFFICIAL_DEFAULTS["text"].cfg_scale, 1000)
    with pytest.raises(ValueError, match="do not state the guidance scale of c2i-L-256; give --cfg-scale"):
        paper_preset("c2i-L-256")
    assert paper_preset("c2i-L-256", 2.0)["cfg_scale"] == 2.0


def command(model: Path, out: Path, *flags: object) -> list[str]:
    words = ["sample", model, "--out", out, "--codes", "--enforce-eager", "--max-num-seqs", 8, *flags]
    return [sys.executable, "-m", "llamagen_server", *map(str, words)]


@pytest.mark.engine
def test_a_killed_run_ends_as_an_unbroken_one(class_model_dir: Path, tmp_path: Path) -> None:
    """Killed while it samples; the second run makes the rest, and no image twice."""
    out, flags = tmp_path / "killed.npz", ("--num-images", NUM_IMAGES)
    log = tmp_path / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command(class_model_dir, out, *flags), stderr=output, stdout=output, start_new_session=True
        )
        marks = tmp_path / "killed.npz.partial" / "marks.npy"
        deadline = time.monotonic() + 120
        while not (marks.exists() and np.load(marks).sum() >= 8):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
    there = int(np.load(marks).sum())
    assert there < NUM_IMAGES
    assert not out.exists()
    done = subprocess.run(command(class_model_dir, out, *flags), capture_output=True, text=True, check=True)
    [left] = re.findall(rf"of {NUM_IMAGES} images are there, (\d+) to sample", done.stderr)
    assert int(left) == NUM_IMAGES - there
    whole = tmp_path / "whole.npz"
    subprocess.run(command(class_model_dir, whole, *flags), check=True)
    assert out.read_bytes() == whole.read_bytes()
