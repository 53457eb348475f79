from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from demo.patches import GRID, patch_table
from demo.scenes import IMAGE_SIZE, Obj, Scene, render, sample_scene


def test_every_scene_consists_of_known_patches() -> None:
    table, rng = patch_table(), random.Random(7)
    pictures = [render(sample_scene(rng)) for _ in range(2000)]
    codes = np.stack([table.codes(picture) for picture in pictures])
    assert codes.shape == (2000, GRID * GRID)
    assert len(np.unique(codes)) > 0.95 * len(table)
    patches = [np.frombuffer(patch, np.uint8).reshape(16, 16, 3) for patch in table.numbers]
    for picture, numbers in zip(pictures[:5], codes):
        rows = [np.concatenate([patches[n] for n in row], axis=1) for row in numbers.reshape(GRID, GRID)]
        assert (np.concatenate(rows) == picture).all()


def test_features_tell_what_a_patch_shows() -> None:
    table = patch_table()
    background, red, blue = (
        table.codes(render(Scene("white", objects)))
        for objects in ((), (Obj("circle", "red", "small", 16, 16),), (Obj("circle", "blue", "small", 16, 16),))
    )
    assert table.plain[background].all()
    assert not table.plain[red[0]]
    one, other = table.features[red[0]], table.features[blue[0]]
    assert torch.equal(one.sum(), torch.tensor(3.0))  # background, colour, cell
    assert (one != other).sum() == 2  # the colours
    assert torch.allclose(table.features.sum(1).max(), torch.tensor(3.0))


def test_unknown_pixels_are_refused() -> None:
    with pytest.raises(KeyError):
        patch_table().codes(np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8))
