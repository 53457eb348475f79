"""Scenes of coloured shapes: their contents, random sampling and rendering."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

IMAGE_SIZE = 128
"""Side of an image in pixels."""
SUPERSAMPLING = 8
PATCH = 16
"""Side of a patch in pixels; each patch is one image token.

Objects are aligned to the grid of patches and never share a patch. All scenes together therefore have only 1893
distinct patches, so that each can have its own code, and a code never depends on objects elsewhere.
"""

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 52, 48),
    "orange": (244, 138, 36),
    "yellow": (250, 210, 60),
    "green": (52, 160, 80),
    "cyan": (60, 198, 210),
    "blue": (46, 102, 222),
    "purple": (136, 70, 190),
    "pink": (246, 128, 182),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (250, 250, 248),
    "black": (22, 22, 26),
    "grey": (172, 178, 188),
    "navy": (26, 42, 98),
    "beige": (238, 218, 180),
}
SHAPES = ("circle", "square", "triangle", "diamond")
SIZES = ("small", "large")
RELATIONS = ("left of", "right of", "above", "below")

HALF_EXTENTS: dict[tuple[str, str], int] = {
    ("circle", "small"): 11,
    ("square", "small"): 10,
    ("triangle", "small"): 12,
    ("diamond", "small"): 13,
    ("circle", "large"): 21,
    ("square", "large"): 19,
    ("triangle", "large"): 22,
    ("diamond", "large"): 23,
}
"""Half the side of the bounding box in pixels. All shapes of one size look equally big."""

SPANS = {"small": PATCH, "large": 3 * PATCH // 2}
"""Half the side, in pixels, of the square that an object has to itself: 2 x 2 or 3 x 3 patches."""

CENTRES = {size: range(span, IMAGE_SIZE - span + 1, PATCH) for size, span in SPANS.items()}
"""Possible centres of an object along one axis, in pixels, by size."""

ZONES = {
    "small": ((16, 32), (64,), (96, 112)),
    "large": ((24,), (56, 72), (104,)),
}
"""Possible centres of a single object along one axis, in pixels, by size: at the start, middle and end."""
COLUMNS = ("left", "centre", "right")
ROWS = ("top", "centre", "bottom")
POSITIONS = tuple((row, column) for row in ROWS for column in COLUMNS)


@dataclass(frozen=True)
class Obj:
    """One shape. ``x`` and ``y`` are the centre of its bounding box in pixels; ``y`` grows downwards."""

    shape: str
    colour: str
    size: str
    x: int
    y: int

    @property
    def half(self) -> int:
        """Half the side of the bounding box in pixels."""
        return HALF_EXTENTS[self.shape, self.size]


@dataclass(frozen=True)
class Scene:
    """One or two objects on a plain background.

    A scene of one object has a ``position``: the (row, column) of its region, one of 3 x 3. A scene of two has a
    ``relation``: the place of the first object relative to the second.
    """

    background: str
    objects: tuple[Obj, ...]
    position: tuple[str, str] | None = None
    relation: str | None = None


def sample_scene(rng: random.Random) -> Scene:
    """Samples a scene; it has one object with probability 0.4, otherwise two."""
    background = rng.choice(list(BACKGROUNDS))
    return _sample_single(rng, background) if rng.random() < 0.4 else _sample_pair(rng, background)


def _sample_single(rng: random.Random, background: str) -> Scene:
    size = rng.choice(SIZES)
    row, column = rng.choice(POSITIONS)
    x = rng.choice(ZONES[size][COLUMNS.index(column)])
    y = rng.choice(ZONES[size][ROWS.index(row)])
    obj = Obj(rng.choice(SHAPES), rng.choice(list(COLOURS)), size, x, y)
    return Scene(background, (obj,), position=(row, column))


def _sample_pair(rng: random.Random, background: str) -> Scene:
    relation = rng.choice(RELATIONS)
    looks = [(s, c) for s in SHAPES for c in COLOURS]
    (shape_a, colour_a), (shape_b, colour_b) = rng.sample(looks, 2)
    size_a, size_b = rng.choice(SIZES), rng.choice(SIZES)
    near, far = _sample_along(rng, size_a, size_b)
    across_a, across_b = _sample_across(rng, size_a, size_b)
    along_a, along_b = (near, far) if relation in ("left of", "above") else (IMAGE_SIZE - near, IMAGE_SIZE - far)
    if relation in ("left of", "right of"):
        xy_a, xy_b = (along_a, across_a), (along_b, across_b)
    else:
        xy_a, xy_b = (across_a, along_a), (across_b, along_b)
    objects = (Obj(shape_a, colour_a, size_a, *xy_a), Obj(shape_b, colour_b, size_b, *xy_b))
    return Scene(background, objects, relation=relation)


def _sample_along(rng: random.Random, first: str, second: str) -> tuple[int, int]:
    """Centres of objects of two sizes along the axis of their relation. The first precedes; no patch is shared."""
    apart = SPANS[first] + SPANS[second]
    return rng.choice([(a, b) for a in CENTRES[first] for b in CENTRES[second] if b - a >= apart])


def _sample_across(rng: random.Random, size_a: str, size_b: str) -> tuple[int, int]:
    """Centres along the other axis. They are at most one patch apart, so that only one relation holds."""
    return rng.choice([(a, b) for a in CENTRES[size_a] for b in CENTRES[size_b] if abs(a - b) <= PATCH])


@cache
def shape_mask(shape: str, half: int) -> np.ndarray:
    """Anti-aliased coverage of a shape in its bounding box, float32 [2 * half, 2 * half] in [0, 1].

    Raises:
        ValueError: the shape is unknown.
    """
    side = 2 * half * SUPERSAMPLING
    image = Image.new("L", (side, side), 0)
    brush, end = ImageDraw.Draw(image), side - 1
    if shape == "circle":
        brush.ellipse((0, 0, end, end), fill=255)
    elif shape == "square":
        brush.rectangle((0, 0, end, end), fill=255)
    elif shape == "triangle":
        brush.polygon([(side / 2, 0), (end, end), (0, end)], fill=255)
    elif shape == "diamond":
        brush.polygon([(side / 2, 0), (end, side / 2), (side / 2, end), (0, side / 2)], fill=255)
    else:
        raise ValueError(f"unknown shape {shape!r}; known: {', '.join(SHAPES)}")
    small = image.resize((2 * half, 2 * half), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32) / 255.0


def render(scene: Scene) -> np.ndarray:
    """Renders a scene as RGB pixels, uint8 [IMAGE_SIZE, IMAGE_SIZE, 3]."""
    pixels = np.empty((IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.float32)
    pixels[:] = BACKGROUNDS[scene.background]
    for obj in scene.objects:
        mask = shape_mask(obj.shape, obj.half)[..., None]
        box = pixels[obj.y - obj.half : obj.y + obj.half, obj.x - obj.half : obj.x + obj.half]
        box += mask * (np.array(COLOURS[obj.colour], dtype=np.float32) - box)
    return np.round(pixels).astype(np.uint8)
