"""Image files."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from llamagen_server.image_files.files import OutputFormat, contact_sheet, encode_image


def picture(value: int) -> np.ndarray:
    return np.full((4, 6, 3), value, np.uint8)


@pytest.mark.parametrize(("output_format", "name"), [("png", "PNG"), ("webp", "WEBP"), ("jpeg", "JPEG")])
def test_files(output_format: OutputFormat, name: str) -> None:
    image = Image.open(io.BytesIO(encode_image(picture(77), output_format)))
    assert (image.format, image.size) == (name, (6, 4))
    assert np.abs(np.asarray(image).astype(int) - 77).max() <= 1


def test_quality_makes_smaller_files() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    assert len(encode_image(noise, "jpeg", 10)) < len(encode_image(noise, "jpeg", 95)) / 2


def test_contact_sheet() -> None:
    sheet = contact_sheet([picture(v) for v in (10, 20, 30)], columns=2, gap=1)
    assert sheet.shape == (2 * 5 + 1, 2 * 7 + 1, 3)
    assert (sheet[1, 1, 0], sheet[1, 8, 0], sheet[6, 1, 0], sheet[6, 8, 0], sheet[0, 0, 0]) == (10, 20, 30, 255, 255)
