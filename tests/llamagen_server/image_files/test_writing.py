"""Writing image files: formats, quality, contact sheets."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from llamagen_server.image_files.sheet import contact_sheet
from llamagen_server.image_files.writing import OutputFormat, make_image_file


def plain(value: int) -> np.ndarray:
    return np.full((4, 6, 3), value, np.uint8)


@pytest.mark.parametrize(("output_format", "name"), [("png", "PNG"), ("webp", "WEBP"), ("jpeg", "JPEG")])
def test_files(output_format: OutputFormat, name: str) -> None:
    image = Image.open(io.BytesIO(make_image_file(plain(77), output_format)))
    assert (image.format, image.size) == (name, (6, 4))
    assert np.abs(np.asarray(image).astype(int) - 77).max() <= 1


def test_quality_makes_smaller_files() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    assert len(make_image_file(noise, "jpeg", 10)) < len(make_image_file(noise, "jpeg", 95)) / 2


def test_contact_sheet() -> None:
    sheet = contact_sheet([plain(v) for v in (10, 20, 30)], columns=2, gap=1)
    assert sheet.shape == (2 * 5 + 1, 2 * 7 + 1, 3)
    assert (sheet[1, 1, 0], sheet[1, 8, 0], sheet[6, 1, 0], sheet[6, 8, 0], sheet[0, 0, 0]) == (10, 20, 30, 255, 255)
