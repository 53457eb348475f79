from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from demo.shapes.captions import Attribute, sample_caption
from demo.shapes.checker import check, find_objects
from demo.shapes.scenes import (
    BACKGROUNDS,
    COLOURS,
    POSITIONS,
    RELATIONS,
    SHAPES,
    SIZES,
    Obj,
    Scene,
    render,
    sample_scene,
)

VALUES = {
    "background": tuple(BACKGROUNDS),
    "position": tuple(" ".join(p) for p in POSITIONS),
    "relation": RELATIONS,
    "shape": SHAPES,
    "colour": tuple(COLOURS),
    "size": SIZES,
    "count": ("1", "2"),
}


def test_rendered_scenes_show_their_captions() -> None:
    rng = random.Random(1)
    for _ in range(200):
        scene = sample_scene(rng)
        assert check(render(scene), sample_caption(rng, scene).attributes) == []


def full_description(scene: Scene) -> list[Attribute]:
    """All attributes that a caption of the scene may state."""
    where = (
        Attribute("relation", scene.relation)
        if scene.relation
        else Attribute("position", " ".join(scene.position or ()))
    )
    looks = [Attribute(k, getattr(o, k), i) for i, o in enumerate(scene.objects) for k in ("shape", "colour", "size")]
    return [Attribute("count", str(len(scene.objects))), Attribute("background", scene.background), where, *looks]


def test_a_changed_attribute_is_reported() -> None:
    rng = random.Random(2)
    for _ in range(40):
        scene = sample_scene(rng)
        attributes = full_description(scene)
        for place, old in enumerate(attributes):
            wrong = replace(old, value=rng.choice([v for v in VALUES[old.kind] if v != old.value]))
            failures = check(render(scene), [*attributes[:place], wrong, *attributes[place + 1 :]])
            assert len(failures) == 1
            if len(scene.objects) == 1 or wrong.index is None:
                assert failures == [wrong]


def test_a_missing_object_fails_with_its_attributes() -> None:
    scene = Scene("white", (Obj("circle", "red", "large", 64, 64),), position=("centre", "centre"))
    second = [Attribute("shape", "square", 1), Attribute("relation", "above")]
    assert check(render(scene), [Attribute("count", "2"), Attribute("shape", "circle", 0), *second]) == [
        Attribute("count", "2"),
        *second,
    ]


def test_noise_does_not_hide_an_object() -> None:
    scene = Scene("beige", (Obj("diamond", "pink", "small", 32, 96),), position=("bottom", "left"))
    noise = np.random.default_rng(0).normal(0, 8, (128, 128, 3))
    background, objects = find_objects(np.clip(render(scene) + noise, 0, 255).astype(np.uint8))
    assert background == "beige"
    assert [(o.shape, o.colour, o.size, o.position) for o in objects] == [("diamond", "pink", "small", "bottom left")]


def test_a_plain_image_shows_no_object() -> None:
    assert find_objects(np.full((128, 128, 3), 250, np.uint8)) == ("white", [])


def test_an_image_of_another_size_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"image is uint8 \(64, 64, 3\)"):
        check(np.zeros((64, 64, 3), np.uint8), [])
