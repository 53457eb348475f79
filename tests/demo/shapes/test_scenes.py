from __future__ import annotations

import random

import numpy as np
import pytest
from demo.shapes.scenes import BACKGROUNDS, COLOURS, IMAGE_SIZE, PATCH, SPANS, Scene, render, sample_scene, shape_mask


def scenes(seed: int, count: int = 200) -> list[Scene]:
    rng = random.Random(seed)
    return [sample_scene(rng) for _ in range(count)]


def test_same_seed_same_scenes_and_pixels() -> None:
    assert scenes(3) == scenes(3) != scenes(4)
    first = [render(scene) for scene in scenes(3, 20)]
    shape_mask.cache_clear()
    assert all(np.array_equal(pixels, render(scene)) for pixels, scene in zip(first, scenes(3, 20), strict=True))


def test_objects_are_aligned_inside_the_image_and_apart() -> None:
    for scene in scenes(5):
        for obj in scene.objects:
            assert obj.half <= SPANS[obj.size]
            assert all((c - SPANS[obj.size]) % PATCH == 0 for c in (obj.x, obj.y))
            assert obj.half <= obj.x <= IMAGE_SIZE - obj.half
            assert obj.half <= obj.y <= IMAGE_SIZE - obj.half
        if scene.relation:
            first, second = scene.objects
            apart = max(abs(first.x - second.x), abs(first.y - second.y))
            assert apart >= SPANS[first.size] + SPANS[second.size]


def test_only_the_stated_relation_holds() -> None:
    for scene in scenes(6):
        if scene.relation:
            first, second = scene.objects
            dx, dy = second.x - first.x, second.y - first.y
            along, across = (dx, dy) if scene.relation in ("left of", "right of") else (dy, dx)
            assert (along > 0) == (scene.relation in ("left of", "above"))
            assert abs(along) > abs(across)


def test_rendering_shows_background_and_colours() -> None:
    for scene in scenes(7, 50):
        pixels = render(scene)
        assert pixels.shape == (IMAGE_SIZE, IMAGE_SIZE, 3)
        assert pixels.dtype == np.uint8
        assert tuple(pixels[0, 0]) == BACKGROUNDS[scene.background]
        for obj in scene.objects:
            assert tuple(pixels[obj.y, obj.x]) == COLOURS[obj.colour]


def test_palette_colours_are_distinguishable() -> None:
    palette = [*COLOURS.values(), *BACKGROUNDS.values()]
    distances = [np.linalg.norm(np.subtract(a, b)) for i, a in enumerate(palette) for b in palette[:i]]
    assert min(distances) > 60


def test_an_unknown_shape_is_reported() -> None:
    with pytest.raises(ValueError, match="unknown shape 'star'; known: circle"):
        shape_mask("star", 10)
