"""Images of the class demo: one emoji on a plain background, with its place, size, rotation and mirroring varied."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from demo.emoji.artwork import SIDE, artwork
from demo.emoji.classes import CLASSES

IMAGE_SIZE = 64
"""Side of an image in pixels."""
PATCH = 8
"""Side of a patch in pixels; each patch is one image token. Emoji are aligned to the grid of patches."""
SIZES = (48, 56, 64)
"""Sides of the square that an emoji has to itself, in pixels."""
ROTATIONS = (-10, 0, 10)
"""Rotations in degrees, counter-clockwise."""
FILL = 0.94
"""Side of an emoji relative to its square."""

BACKGROUNDS: tuple[tuple[int, int, int], ...] = (
    (255, 255, 255),
    (255, 224, 224),
    (255, 238, 210),
    (252, 250, 206),
    (220, 245, 220),
    (214, 238, 250),
    (226, 222, 250),
    (232, 232, 232),
)


@dataclass(frozen=True)
class Scene:
    """One emoji. ``x`` and ``y`` are the corner of its square in pixels; ``y`` grows downwards."""

    class_id: int
    size: int
    x: int
    y: int
    rotation: int
    mirrored: bool
    background: int
    """Index of `BACKGROUNDS`."""


def sample_scene(rng: random.Random, class_id: int | None = None) -> Scene:
    """Samples a scene, of any class or of a given one."""
    size = rng.choice(SIZES)
    places = range(0, IMAGE_SIZE - size + 1, PATCH)
    return Scene(
        rng.randrange(len(CLASSES)) if class_id is None else class_id,
        size,
        rng.choice(places),
        rng.choice(places),
        rng.choice(ROTATIONS),
        rng.random() < 0.5,
        rng.randrange(len(BACKGROUNDS)),
    )


def render(scene: Scene) -> np.ndarray:
    """Renders a scene as RGB pixels, uint8 [IMAGE_SIZE, IMAGE_SIZE, 3]."""
    pixels = np.empty((IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.float32)
    pixels[:] = BACKGROUNDS[scene.background]
    colours, coverage = _emoji(scene.class_id, scene.size, scene.rotation, scene.mirrored)
    box = pixels[scene.y : scene.y + scene.size, scene.x : scene.x + scene.size]
    box += coverage * (colours - box)
    return np.round(pixels).astype(np.uint8)


@cache
def _emoji(class_id: int, size: int, rotation: int, mirrored: bool) -> tuple[np.ndarray, np.ndarray]:
    """Colours, uint8 [size, size, 3], and coverage, float32 [size, size, 1] in [0, 1], of an emoji in its square."""
    square = round(SIDE / FILL)
    image = Image.new("RGBA", (square, square))
    image.paste(artwork()[class_id], ((square - SIDE) // 2, (square - SIDE) // 2))
    if mirrored:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image = image.rotate(rotation, Image.Resampling.BICUBIC)
    image = image.resize((size, size), Image.Resampling.LANCZOS)
    pixels = np.asarray(image)
    return pixels[..., :3].copy(), pixels[..., 3:].astype(np.float32) / 255.0
