"""Decides from pixels alone which statements of a caption a picture bears out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import permutations, product

import cv2
import numpy as np

from demo.captions import Attribute
from demo.scenes import BACKGROUNDS, COLOURS, COLUMNS, HALF_EXTENTS, IMAGE_SIZE, ROWS, shape_mask

MIN_CONTRAST = 45.0
"""RGB distance to the background from which a pixel belongs to an object."""
MIN_AREA = 60
"""Pixels; anything smaller is noise."""
MAX_COLOUR_ERROR = 45.0
MIN_OVERLAP = 0.75
"""Intersection over union with the outline of a known shape, from which an object has that shape and size."""
THIRDS = (44, 84)
"""Where the left (top), middle and right (bottom) regions for centres meet, pixels."""


@dataclass(frozen=True)
class Seen:
    """An object found in a picture; an unclear property is ``"unclear"``. ``x`` and ``y`` as in `demo.scenes.Obj`."""

    shape: str
    colour: str
    size: str
    x: float
    y: float

    @property
    def position(self) -> str:
        row, column = (int(np.searchsorted(THIRDS, v)) for v in (self.y, self.x))
        return f"{ROWS[row]} {COLUMNS[column]}"


def check(image: np.ndarray, attributes: Sequence[Attribute]) -> list[Attribute]:
    """The attributes that a picture does not show; empty where it shows them all.

    ``image`` is uint8 [128, 128, 3], RGB. The objects of the caption are assigned to those of the picture so that as
    few attributes as possible fail; where the count is wrong, the extra or missing ones count as failures.

    Raises:
        ValueError: the image has another shape or dtype.
    """
    if image.shape != (IMAGE_SIZE, IMAGE_SIZE, 3) or image.dtype != np.uint8:
        raise ValueError(f"image is {image.dtype} {image.shape}, expected uint8 {(IMAGE_SIZE, IMAGE_SIZE, 3)}")
    background, objects = look(image)
    named = 1 + max((a.index for a in attributes if a.index is not None), default=0)
    slots: list[Seen | None] = [*objects, *[None] * max(0, named - len(objects))]
    orders = permutations(slots, named)
    failures = ([a for a in attributes if not _holds(a, background, len(objects), order)] for order in orders)
    return min(failures, key=len)


def _holds(attribute: Attribute, background: str, count: int, order: tuple[Seen | None, ...]) -> bool:
    if attribute.kind == "count":
        return count == int(attribute.value)
    if attribute.kind == "background":
        return background == attribute.value
    if attribute.kind == "relation":
        return len(order) > 1 and _related(attribute.value, order[0], order[1])
    seen = order[attribute.index or 0]
    return seen is not None and getattr(seen, attribute.kind) == attribute.value


def _related(relation: str, first: Seen | None, second: Seen | None) -> bool:
    if first is None or second is None:
        return False
    dx, dy = second.x - first.x, second.y - first.y
    if abs(dx) > abs(dy):
        return relation == ("left of" if dx > 0 else "right of")
    return relation == ("above" if dy > 0 else "below")


def look(image: np.ndarray) -> tuple[str, list[Seen]]:
    """Background colour and objects of a picture, uint8 [H, W, 3], the biggest object first."""
    pixels = cv2.medianBlur(np.ascontiguousarray(image), 3).astype(np.float32)
    plain = _background_colour(pixels)
    foreground = (np.linalg.norm(pixels - plain, axis=-1) > MIN_CONTRAST).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(foreground, connectivity=4)
    found = [i for i in range(1, count) if stats[i, cv2.CC_STAT_AREA] >= MIN_AREA]
    found.sort(key=lambda i: -stats[i, cv2.CC_STAT_AREA])
    return _nearest(plain, BACKGROUNDS), [_describe(pixels, plain, labels == i) for i in found]


def _background_colour(pixels: np.ndarray) -> np.ndarray:
    """The median over those border pixels that have the border's most frequent palette colour."""
    border = np.concatenate(
        [pixels[:2], pixels[-2:], pixels[2:-2, :2].swapaxes(0, 1), pixels[2:-2, -2:].swapaxes(0, 1)], 1
    )
    flat = border.reshape(-1, 3)
    palette = np.array([*BACKGROUNDS.values(), *COLOURS.values()], dtype=np.float32)
    nearest = np.linalg.norm(flat[:, None] - palette, axis=-1).argmin(1)
    return np.median(flat[nearest == np.bincount(nearest).argmax()], axis=0)


def _describe(pixels: np.ndarray, plain: np.ndarray, mask: np.ndarray) -> Seen:
    core = cv2.erode(mask.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    colour = np.median(pixels[core if core.any() else mask], axis=0)
    nearer = np.linalg.norm(pixels - colour, axis=-1) < np.linalg.norm(pixels - plain, axis=-1)
    solid = mask & nearer if (mask & nearer).sum() >= MIN_AREA else mask
    shape, size, x, y = _fit(solid)
    return Seen(shape, _nearest(colour, COLOURS), size, x, y)


def _nearest(colour: np.ndarray, palette: dict[str, tuple[int, int, int]]) -> str:
    distances = {name: float(np.linalg.norm(colour - np.array(rgb))) for name, rgb in palette.items()}
    name = min(distances, key=distances.__getitem__)
    return name if distances[name] <= MAX_COLOUR_ERROR else "unclear"


def _fit(mask: np.ndarray) -> tuple[str, str, float, float]:
    """Shape, size and centre of the known outline that overlaps best with a mask, bool [H, W]."""
    ys, xs = np.nonzero(mask)
    x, y, area = float(xs.mean()) + 0.5, float(ys.mean()) + 0.5, len(xs)
    best, answer = MIN_OVERLAP, ("unclear", "unclear", x, y)
    for (shape, size), outline in _outlines().items():
        if not 0.6 < area / outline.sum() < 1.6:
            continue
        half = len(outline) // 2
        below = float(np.nonzero(outline)[0].mean()) + 0.5 - half  # of the centroid, under the centre of the box
        for dy, dx in product((-1, 0, 1), repeat=2):
            top, left = round(y - below) - half + dy, round(x) - half + dx
            inside = mask[max(top, 0) : top + 2 * half, max(left, 0) : left + 2 * half]
            part = outline[max(-top, 0) :, max(-left, 0) :][: inside.shape[0], : inside.shape[1]]
            common = int((inside & part).sum())
            if (overlap := common / (area + outline.sum() - common)) > best:
                best, answer = overlap, (shape, size, float(left + half), float(top + half))
    return answer


@cache
def _outlines() -> dict[tuple[str, str], np.ndarray]:
    return {key: shape_mask(key[0], half) > 0.5 for key, half in HALF_EXTENTS.items()}
