"""``llamagen generate`` on a real engine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.engine


def generate(*words: object) -> str:
    command = [sys.executable, "-m", "llamagen_server", "generate", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def read(file: Path) -> tuple[str | None, np.ndarray]:
    """The format and the pixels of an image file."""
    with Image.open(file) as image:
        return image.format, np.asarray(image)


def test_images_of_several_classes_in_a_folder(class_model_dir: Path, tmp_path: Path) -> None:
    log = generate(class_model_dir, "--class-id", 3, "--class-id", 5, "-n", 2, "--seed", 7, "-o", tmp_path / "images")
    files = sorted((tmp_path / "images").iterdir())
    assert [file.name for file in files] == ["0000.png", "0001.png", "0002.png", "0003.png"]
    images = [read(file)[1] for file in files]
    assert {image.shape for image in images} == {(64, 64, 3)}
    assert len({image.tobytes() for image in images}) == 4
    assert "0003.png (seed 8)" in log


def test_prompts_on_one_sheet_and_a_single_image(tmp_path: Path) -> None:
    """The demo model, as in the README."""
    generate("a large red circle", "a green square and a blue circle", "-n", 2, "-o", tmp_path / "sheet.webp")
    name, sheet = read(tmp_path / "sheet.webp")
    assert (name, sheet.shape) == ("WEBP", (2 * 128 + 3 * 8, 2 * 128 + 3 * 8, 3))
