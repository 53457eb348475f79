from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from demo.shapes.patches import GRID, patch_table
from demo.shapes.scenes import IMAGE_SIZE, Obj, Scene, render, sample_scene


def test_every_scene_consists_of_patches_of_the_table() -> None:
    table, rng = patch_table(), random.Random(7)
    images = [render(sample_scene(rng)) for _ in range(2000)]
    codes = np.stack([table.codes(image) for image in images])
    assert codes.shape == (2000, GRID * GRID)
    assert len(np.unique(codes)) > 0.95 * len(table)
    patches = [np.frombuffer(patch, np.uint8).reshape(16, 16, 3) for patch in table.code_of]
    for image, image_codes in zip(images[:5], codes):
        rows = [np.concatenate([patches[code] for code in row], axis=1) for row in image_codes.reshape(GRID, GRID)]
        assert (np.concatenate(rows) == image).all()


def test_codes_are_consecutive() -> None:
    assert list(patch_table().code_of.values()) == list(range(1893))


def test_features_describe_the_contents_of_a_patch() -> None:
    table = patch_table()
    background, red, blue = (
        table.codes(render(Scene("white", objects)))
        for objects in ((), (Obj("circle", "red", "small", 16, 16),), (Obj("circle", "blue", "small", 16, 16),))
    )
    assert table.plain[background].all()
    assert not table.plain[red[0]]
    red_features, blue_features = table.features[red[0]], table.features[blue[0]]
    assert torch.equal(red_features.sum(), torch.tensor(3.0))  # background, colour, cell
    assert (red_features != blue_features).sum() == 2  # the colours
    assert torch.allclose(table.features.sum(1).max(), torch.tensor(3.0))


def test_pixels_of_no_scene_are_rejected() -> None:
    with pytest.raises(KeyError):
        patch_table().codes(np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8))
