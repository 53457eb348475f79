"""How good generated images of a demo are: whether they show what was asked for, and how much they vary."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from demo.emoji.classes import CLASSES
from demo.emoji.classifier import classify, load_classifier
from demo.shapes.captions import Caption, held_out_captions
from demo.shapes.checker import check

KINDS = ("count", "shape", "colour", "size", "position", "relation", "background")
"""Kinds of a caption's attributes."""
VISIBLE = 24.0
"""RGB distance from which the same pixel of two images differs visibly."""


class Judge(ABC):
    """Conditions for a demo, and a judgement of the images made from them."""

    conditions: Sequence[dict[str, Any]]
    """Fields of a request, one for each condition."""

    @abstractmethod
    def judge(self, images: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
        """Judges images.

        Args:
            images: uint8 [conditions, n, S, S, 3], n images for each condition.

        Returns:
            Whether each image shows its condition, bool [conditions, n], and shares of what is right; the first, "all",
            is that of the images that show it.
        """

    def scores(self, images: np.ndarray) -> dict[str, float]:
        """The shares of `judge`."""
        return self.judge(images)[1]


class CaptionJudge(Judge):
    """Held-out captions of the text demo. Pixels decide whether an image shows an attribute."""

    def __init__(self, captions: Sequence[Caption] | None = None) -> None:
        self.captions = held_out_captions() if captions is None else captions
        self.conditions = [{"prompt": caption.text} for caption in self.captions]

    def judge(self, images: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
        """An image is right if it shows all attributes. The shares are also those of stated attributes, by kind."""
        stated: Counter[str] = Counter()
        failed: Counter[str] = Counter()
        right = np.zeros(images.shape[:2], bool)
        for i, (group, caption) in enumerate(zip(images, self.captions, strict=True)):
            for j, image in enumerate(group):
                failures = check(image, caption.attributes)
                right[i, j] = not failures
                stated.update(attribute.kind for attribute in caption.attributes)
                failed.update(attribute.kind for attribute in failures)
        by_kind = {kind: 1 - failed[kind] / max(stated[kind], 1) for kind in KINDS}
        return right, {"all": float(right.mean()), **by_kind}


class ClassJudge(Judge):
    """All classes of the class demo. A classifier that was trained apart names the class of an image."""

    def __init__(self) -> None:
        self.classifier = load_classifier()
        self.conditions = [{"class_id": class_id} for class_id in range(len(CLASSES))]

    def judge(self, images: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
        """An image is right if it is of its class. "worst class" is the share of the class with the smallest one."""
        found = classify(self.classifier, images.reshape(-1, *images.shape[2:])).reshape(images.shape[:2])
        right: np.ndarray = found == np.arange(len(found))[:, None]
        shares = right.mean(axis=1)
        return right, {"all": float(shares.mean()), "worst class": float(shares.min())}


def variety(images: np.ndarray, right: np.ndarray) -> dict[str, float]:
    """How much the images of one condition vary, averaged over the conditions.

    Args:
        images: uint8 [conditions, n, S, S, 3] with n > 1.
        right: bool [conditions, n], the images that show their condition.

    Returns:
        ``different``: (number of different images - 1) / (n - 1), so 0 means always the same image. ``variety``: share
        of the pixels that differ visibly between two right images of a condition; a wrong one would differ for
        nothing. 0 if no condition has two.
    """
    different, pixels = [], []
    for group, shows in zip(images, right, strict=True):
        count = len({image.tobytes() for image in group})
        different.append((count - 1) / (len(group) - 1))
        pairs = combinations(group[shows].astype(np.int16), 2)
        if shares := [(np.linalg.norm(a - b, axis=-1) > VISIBLE).mean() for a, b in pairs]:
            pixels.append(np.mean(shares))
    return {"different": float(np.mean(different)), "variety": float(np.mean(pixels)) if pixels else 0.0}
