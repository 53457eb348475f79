"""The patches that scenes are made of. Each is one code of the tokenizer.

Objects stand on the grid of patches and never share one (`demo.scenes`), so every patch of every scene is a plain
background or one of the 2 x 2 or 3 x 3 cells of some object on some background.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
import torch
from torch import Tensor

from demo.scenes import BACKGROUNDS, COLOURS, IMAGE_SIZE, PATCH, SHAPES, SIZES, SPANS, Obj, Scene, render

GRID = IMAGE_SIZE // PATCH
"""Codes per side."""


@dataclass(frozen=True)
class PatchTable:
    """All patches: their numbers by the bytes of their pixels, and what each shows.

    ``features`` float32 [patches, words] is 1 in the columns of the patch's background, of its object's colour and of
    the cell of its object (shape, size, row, column); the mean of these where several objects have the same patch.
    ``plain`` bool [patches] is true for the backgrounds.
    """

    numbers: dict[bytes, int]
    features: Tensor
    plain: Tensor

    def __len__(self) -> int:
        return len(self.numbers)

    def codes(self, pixels: np.ndarray) -> np.ndarray:
        """Numbers of a rendered scene's patches in raster order, int64 [GRID * GRID].

        Raises:
            KeyError: the pixels hold something that no scene shows.
        """
        return np.fromiter((self.numbers[p.tobytes()] for p in _cut(pixels)), np.int64, GRID * GRID)

    def components(self, count: int) -> Tensor:
        """Principal components of the patches' pixels, whitened, float32 [patches, count].

        Patches that look alike have vectors that are alike.
        """
        pixels = np.stack([np.frombuffer(patch, np.uint8) for patch in self.numbers]).astype(np.float32)
        return torch.linalg.svd(torch.from_numpy(pixels - pixels.mean(0)), full_matrices=False).U[:, :count]


def _cut(pixels: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] -> [patches, PATCH, PATCH, 3] in raster order."""
    rows, columns = (n // PATCH for n in pixels.shape[:2])
    return pixels.reshape(rows, PATCH, columns, PATCH, 3).swapaxes(1, 2).reshape(-1, PATCH, PATCH, 3)


@cache
def patch_table() -> PatchTable:
    """Finds all patches by rendering every object on every background."""
    seen: dict[bytes, set[tuple[str, ...]]] = {}
    for background in BACKGROUNDS:
        for shape, size, colour in product(SHAPES, SIZES, COLOURS):
            span = SPANS[size]
            pixels = render(Scene(background, (Obj(shape, colour, size, span, span),)))
            for at, patch in enumerate(_cut(pixels)):
                row, column = divmod(at, GRID)
                inside = max(row, column) * PATCH < 2 * span
                words = (background, colour, f"{shape} {size} {row} {column}") if inside else (background,)
                seen.setdefault(patch.tobytes(), set()).add(words)
    columns = {word: i for i, word in enumerate(sorted({w for all_ in seen.values() for words in all_ for w in words}))}
    features = torch.zeros(len(seen), len(columns))
    for number, descriptions in enumerate(seen.values()):
        for words in descriptions:
            features[number, [columns[w] for w in words]] += 1.0 / len(descriptions)
    plain = torch.tensor([any(len(words) == 1 for words in descriptions) for descriptions in seen.values()])
    return PatchTable({patch: number for number, patch in enumerate(seen)}, features, plain)
