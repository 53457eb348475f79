"""The distinct patches of all scenes. Each is one code of the image tokenizer.

Objects are aligned to the grid of patches and never share a patch (`demo.shapes.scenes`). Every patch of a scene is
therefore plain background, or one of the 2 x 2 or 3 x 3 cells of an object on a background.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
import torch
from torch import Tensor

from demo.shapes.scenes import BACKGROUNDS, COLOURS, IMAGE_SIZE, PATCH, SHAPES, SIZES, SPANS, Obj, Scene, render

GRID = IMAGE_SIZE // PATCH
"""Patches, and thus image tokens, per side of an image."""

Words = tuple[str, ...]
"""Description of a patch: its background and, unless it is plain, its object's colour and cell."""


@dataclass(frozen=True)
class PatchTable:
    """All distinct patches, with their codes and contents. N is their number."""

    code_of: dict[bytes, int]
    """Code of a patch by the bytes of its pixels, uint8 [PATCH, PATCH, 3]; in the order of the codes."""
    features: Tensor
    """float32 [N, F]: 1 in the columns of the patch's background, its object's colour and its object's cell.

    A cell is a shape, a size, a row and a column. A patch that several objects share has the mean of their features.
    """
    plain: Tensor
    """bool [N], true for plain background."""

    def __len__(self) -> int:
        return len(self.code_of)

    def codes(self, pixels: np.ndarray) -> np.ndarray:
        """Codes of a rendered scene, uint8 [IMAGE_SIZE, IMAGE_SIZE, 3], in raster order: int64 [GRID * GRID].

        Raises:
            KeyError: a patch occurs in no scene.
        """
        return np.fromiter((self.code_of[p.tobytes()] for p in _cut(pixels)), np.int64, GRID * GRID)

    def batch_codes(self, images: Sequence[np.ndarray]) -> Tensor:
        """`codes` of B images, int64 [B, GRID * GRID]."""
        return torch.from_numpy(np.stack([self.codes(image) for image in images]))

    def components(self, count: int) -> Tensor:
        """Whitened principal components of the patches' pixels, float32 [N, count].

        Patches that look alike have similar vectors.
        """
        pixels = np.stack([np.frombuffer(patch, np.uint8) for patch in self.code_of]).astype(np.float32)
        return torch.linalg.svd(torch.from_numpy(pixels - pixels.mean(0)), full_matrices=False).U[:, :count]


def _cut(pixels: np.ndarray) -> np.ndarray:
    """Cuts an image, uint8 [H, W, 3], into patches [n, PATCH, PATCH, 3] in raster order."""
    rows, columns = (n // PATCH for n in pixels.shape[:2])
    return pixels.reshape(rows, PATCH, columns, PATCH, 3).swapaxes(1, 2).reshape(-1, PATCH, PATCH, 3)


@cache
def patch_table() -> PatchTable:
    """Finds all distinct patches by rendering every object on every background."""
    contents = _contents()
    code_of = {patch: code for code, patch in enumerate(contents)}
    plain = torch.tensor([any(len(words) == 1 for words in descriptions) for descriptions in contents.values()])
    return PatchTable(code_of, _features(list(contents.values())), plain)


def _contents() -> dict[bytes, set[Words]]:
    """Descriptions of each distinct patch, keyed by its pixels, in the order in which rendering finds the patches."""
    contents: dict[bytes, set[Words]] = {}
    for background in BACKGROUNDS:
        for shape, size, colour in product(SHAPES, SIZES, COLOURS):
            span = SPANS[size]
            pixels = render(Scene(background, (Obj(shape, colour, size, span, span),)))
            for index, patch in enumerate(_cut(pixels)):
                row, column = divmod(index, GRID)
                inside = max(row, column) * PATCH < 2 * span
                words = (background, colour, f"{shape} {size} {row} {column}") if inside else (background,)
                contents.setdefault(patch.tobytes(), set()).add(words)
    return contents


def _features(contents: Sequence[set[Words]]) -> Tensor:
    """Mean one-hot encoding of the descriptions of each patch, float32 [N, F]."""
    vocabulary = sorted({word for descriptions in contents for words in descriptions for word in words})
    columns = {word: column for column, word in enumerate(vocabulary)}
    features = torch.zeros(len(contents), len(columns))
    for code, descriptions in enumerate(contents):
        for words in descriptions:
            features[code, [columns[word] for word in words]] += 1.0 / len(descriptions)
    return features
