"""The images of the class demo: artwork, names, and every variation."""

from __future__ import annotations

import random
from itertools import product

import numpy as np
from demo.emoji.artwork import SIDE, artwork
from demo.emoji.classes import CLASSES, labels
from demo.emoji.scenes import BACKGROUNDS, IMAGE_SIZE, PATCH, ROTATIONS, SIZES, Scene, render, sample_scene

from llamagen_server.model_dir.labels import find_class


def scene(**changes: int) -> Scene:
    values = {"class_id": 0, "size": 48, "x": 8, "y": 16, "rotation": 0, "mirrored": False, "background": 1}
    return Scene(**{**values, **changes})  # type: ignore[arg-type]


def test_every_class_has_its_own_artwork() -> None:
    assert len(CLASSES) == len(artwork()) == 64
    assert all(image.size == (SIDE, SIDE) and image.mode == "RGBA" for image in artwork())
    assert len({image.tobytes() for image in artwork()}) == 64
    for image in artwork():
        left, top, right, bottom = image.getchannel("A").getbbox() or (0, 0, 0, 0)
        assert max(right - left, bottom - top) > 0.95 * SIDE


def test_every_name_is_of_one_class() -> None:
    for class_id, names in labels().items():
        for name in names:
            assert find_class(name, labels()) == class_id, name


def test_names_come_from_unicode_too() -> None:
    assert labels()[0] == ["cat", "kitten", "cat face", "🐱"]


def test_an_emoji_is_in_its_square_on_its_background() -> None:
    pixels = render(scene())
    outside = np.ones((IMAGE_SIZE, IMAGE_SIZE), bool)
    outside[16:64, 8:56] = False
    assert (pixels[outside] == BACKGROUNDS[1]).all()
    assert (pixels[~outside] != BACKGROUNDS[1]).any(axis=-1).mean() > 0.5


def test_variations_differ() -> None:
    variations = [
        scene(),
        scene(mirrored=True),
        scene(rotation=10),
        scene(background=0),
        scene(size=56, x=0, y=0),
        scene(x=0),
    ]
    assert len({render(s).tobytes() for s in variations}) == len(variations)


def test_samples_vary_in_everything_and_stay_on_the_grid() -> None:
    rng = random.Random(0)
    samples = [sample_scene(rng) for _ in range(2000)]
    assert {s.class_id for s in samples} == set(range(64))
    assert {(s.size, s.rotation, s.mirrored) for s in samples} == set(product(SIZES, ROTATIONS, (False, True)))
    assert {s.background for s in samples} == set(range(len(BACKGROUNDS)))
    assert {(s.x % PATCH, s.y % PATCH) for s in samples} == {(0, 0)}
    assert all(max(s.x, s.y) + s.size <= IMAGE_SIZE for s in samples)
    assert sample_scene(rng, class_id=7).class_id == 7
