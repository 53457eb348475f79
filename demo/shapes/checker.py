"""Checks from pixels alone which attributes of a caption an image shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import permutations, product

import cv2
import numpy as np

from demo.shapes.captions import Attribute
from demo.shapes.scenes import BACKGROUNDS, COLOURS, COLUMNS, HALF_EXTENTS, IMAGE_SIZE, ROWS, shape_mask

MIN_CONTRAST = 45.0
"""Minimum RGB distance of an object's pixels from the background."""
MIN_AREA = 60
"""Minimum area of an object in pixels; anything smaller is noise."""
MAX_COLOUR_ERROR = 45.0
"""Maximum RGB distance from a colour of the palette; beyond it the colour is unclear."""
MIN_OVERLAP = 0.75
"""Minimum intersection over union with a known outline for an object to have that shape and size."""
THIRDS = (44, 84)
"""Boundaries in pixels between the left (top), middle and right (bottom) regions of object centres."""


@dataclass(frozen=True)
class FoundObject:
    """An object found in an image. ``x`` and ``y`` are as in `demo.shapes.scenes.Obj`.

    An unclear property is "unclear".
    """

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
    """Returns the attributes that an image does not show, an empty list if it shows all of them.

    The objects of the caption are matched with those in the image so that as few attributes as possible fail. An
    object missing from the image fails with all its attributes; a surplus object fails only the count.

    Args:
        image: uint8 [128, 128, 3], RGB.

    Raises:
        ValueError: the image has another shape or dtype.
    """
    if image.shape != (IMAGE_SIZE, IMAGE_SIZE, 3) or image.dtype != np.uint8:
        raise ValueError(f"image is {image.dtype} {image.shape}, expected uint8 {(IMAGE_SIZE, IMAGE_SIZE, 3)}")
    background, objects = find_objects(image)
    described = 1 + max((a.index for a in attributes if a.index is not None), default=0)
    slots: list[FoundObject | None] = [*objects, *[None] * max(0, described - len(objects))]
    orders = permutations(slots, described)
    failures = ([a for a in attributes if not _holds(a, background, len(objects), order)] for order in orders)
    return min(failures, key=len)


def _holds(attribute: Attribute, background: str, count: int, order: tuple[FoundObject | None, ...]) -> bool:
    if attribute.kind == "count":
        return count == int(attribute.value)
    if attribute.kind == "background":
        return background == attribute.value
    if attribute.kind == "relation":
        return len(order) > 1 and _related(attribute.value, order[0], order[1])
    found = order[attribute.index or 0]
    return found is not None and getattr(found, attribute.kind) == attribute.value


def _related(relation: str, first: FoundObject | None, second: FoundObject | None) -> bool:
    if first is None or second is None:
        return False
    dx, dy = second.x - first.x, second.y - first.y
    if abs(dx) > abs(dy):
        return relation == ("left of" if dx > 0 else "right of")
    return relation == ("above" if dy > 0 else "below")


def find_objects(image: np.ndarray) -> tuple[str, list[FoundObject]]:
    """Background colour and objects, largest first, of an RGB image, uint8 [H, W, 3]."""
    pixels = cv2.medianBlur(np.ascontiguousarray(image), 3).astype(np.float32)
    background_rgb = _background_colour(pixels)
    foreground = (np.linalg.norm(pixels - background_rgb, axis=-1) > MIN_CONTRAST).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(foreground, connectivity=4)
    found = [i for i in range(1, count) if stats[i, cv2.CC_STAT_AREA] >= MIN_AREA]
    found.sort(key=lambda i: -stats[i, cv2.CC_STAT_AREA])
    return _nearest(background_rgb, BACKGROUNDS), [_describe(pixels, background_rgb, labels == i) for i in found]


def _background_colour(pixels: np.ndarray) -> np.ndarray:
    """Median of the border pixels nearest to the palette colour that is most frequent at the border."""
    border = np.concatenate(
        [pixels[:2], pixels[-2:], pixels[2:-2, :2].swapaxes(0, 1), pixels[2:-2, -2:].swapaxes(0, 1)], 1
    )
    flat = border.reshape(-1, 3)
    palette = np.array([*BACKGROUNDS.values(), *COLOURS.values()], dtype=np.float32)
    nearest = np.linalg.norm(flat[:, None] - palette, axis=-1).argmin(1)
    return np.median(flat[nearest == np.bincount(nearest).argmax()], axis=0)


def _describe(pixels: np.ndarray, background_rgb: np.ndarray, mask: np.ndarray) -> FoundObject:
    """Properties of the object under a mask, bool [H, W], in an image, float32 [H, W, 3]."""
    core = cv2.erode(mask.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    colour = np.median(pixels[core if core.any() else mask], axis=0)
    nearer = np.linalg.norm(pixels - colour, axis=-1) < np.linalg.norm(pixels - background_rgb, axis=-1)
    solid = mask & nearer if (mask & nearer).sum() >= MIN_AREA else mask
    shape, size, x, y = _fit(solid)
    return FoundObject(shape, _nearest(colour, COLOURS), size, x, y)


def _nearest(colour: np.ndarray, palette: dict[str, tuple[int, int, int]]) -> str:
    """Name of the nearest palette colour, or "unclear" beyond MAX_COLOUR_ERROR."""
    distances = {name: float(np.linalg.norm(colour - np.array(rgb))) for name, rgb in palette.items()}
    name = min(distances, key=distances.__getitem__)
    return name if distances[name] <= MAX_COLOUR_ERROR else "unclear"


def _fit(mask: np.ndarray) -> tuple[str, str, float, float]:
    """Shape, size and centre (x, y) of the known outline that overlaps best with a mask, bool [H, W]."""
    ys, xs = np.nonzero(mask)
    x, y = float(xs.mean()) + 0.5, float(ys.mean()) + 0.5
    best, answer = MIN_OVERLAP, ("unclear", "unclear", x, y)
    for (shape, size), outline in _outlines().items():
        if not 0.6 < len(xs) / outline.sum() < 1.6:
            continue
        half = len(outline) // 2
        below = float(np.nonzero(outline)[0].mean()) + 0.5 - half  # distance of the centroid below the box's centre
        for dy, dx in product((-1, 0, 1), repeat=2):
            top, left = round(y - below) - half + dy, round(x) - half + dx
            if (overlap := _overlap(mask, outline, top, left)) > best:
                best, answer = overlap, (shape, size, float(left + half), float(top + half))
    return answer


def _overlap(mask: np.ndarray, outline: np.ndarray, top: int, left: int) -> float:
    """Intersection over union of a mask, bool [H, W], with an outline, bool [S, S], placed at (top, left).

    The outline may extend beyond the image.
    """
    side = len(outline)
    inside = mask[max(top, 0) : top + side, max(left, 0) : left + side]
    part = outline[max(-top, 0) :, max(-left, 0) :][: inside.shape[0], : inside.shape[1]]
    common = int((inside & part).sum())
    return float(common / (mask.sum() + outline.sum() - common))


@cache
def _outlines() -> dict[tuple[str, str], np.ndarray]:
    return {key: shape_mask(key[0], half) > 0.5 for key, half in HALF_EXTENTS.items()}
