"""``llamagen generate`` on a real engine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from demo.emoji.classes import CLASSES
from demo.emoji.classifier import classify, load_classifier
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


def test_classes_of_the_class_demo_in_a_folder(tmp_path: Path) -> None:
    classes = range(0, len(CLASSES), 4)
    words = [word for class_id in classes for word in ("--class-id", class_id)]
    log = generate("--demo", "class", *words, "-n", 2, "--seed", 7, "-o", tmp_path / "images")
    files = sorted((tmp_path / "images").iterdir())
    assert [file.name for file in files] == [f"{i:04}.png" for i in range(2 * len(classes))]
    images = np.stack([read(file)[1] for file in files])
    assert images.shape == (2 * len(classes), 64, 64, 3)
    assert "0031.png (seed 8)" in log
    assert len({image.tobytes() for image in images}) > 1.8 * len(classes)
    right = classify(load_classifier(), images) == np.repeat(classes, 2)
    assert right.mean() >= 0.85


def test_prompts_on_one_sheet_and_a_single_image(tmp_path: Path) -> None:
    """The demo model, as in the README."""
    generate("a large red circle", "a green square and a blue circle", "-n", 2, "-o", tmp_path / "sheet.webp")
    name, sheet = read(tmp_path / "sheet.webp")
    assert (name, sheet.shape) == ("WEBP", (2 * 128 + 3 * 8, 2 * 128 + 3 * 8, 3))
