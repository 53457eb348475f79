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
    def scores(self, images: np.ndarray) -> dict[str, float]:
        """Shares of what is right, the most important first.

        Args:
            images: uint8 [conditions, n, S, S, 3], n images for each condition.
        """


class CaptionJudge(Judge):
    """Held-out captions of the text demo. Pixels decide whether an image shows an attribute."""

    def __init__(self, captions: Sequence[Caption] | None = None) -> None:
        self.captions = held_out_captions() if captions is None else captions
        self.conditions = [{"prompt": caption.text} for caption in self.captions]

    def scores(self, images: np.ndarray) -> dict[str, float]:
        """Share of images that show all attributes ("all"), and of stated attributes that are shown, by kind."""
        stated: Counter[str] = Counter()
        failed: Counter[str] = Counter()
        right = 0
        for group, caption in zip(images, self.captions, strict=True):
            for image in group:
                failures = check(image, caption.attributes)
                right += not failures
                stated.update(attribute.kind for attribute in caption.attributes)
                failed.update(attribute.kind for attribute in failures)
        by_kind = {kind: 1 - failed[kind] / max(stated[kind], 1) for kind in KINDS}
        return {"all": right / (images.shape[0] * images.shape[1]), **by_kind}


class ClassJudge(Judge):
    """All classes of the class demo. A classifier that was trained apart tells the class of an image."""

    def __init__(self) -> None:
        self.classifier = load_classifier()
        self.conditions = [{"class_id": class_id} for class_id in range(len(CLASSES))]

    def scores(self, images: np.ndarray) -> dict[str, float]:
        """Share of images of the right class ("all"), and that of the class with the smallest share ("worst class")."""
        found = classify(self.classifier, images.reshape(-1, *images.shape[2:])).reshape(images.shape[:2])
        shares = (found == np.arange(len(found))[:, None]).mean(axis=1)
        return {"all": float(shares.mean()), "worst class": float(shares.min())}


def variety(images: np.ndarray) -> dict[str, float]:
    """How much the images of one condition vary, averaged over the conditions.

    Args:
        images: uint8 [conditions, n, S, S, 3] with n > 1.

    Returns:
        ``different``: images that no other image of the condition equals, as a share of all but one, so that 0 means
        always the same image. ``variety``: share of the pixels that differ visibly between two images.
    """
    different, pixels = [], []
    for group in images:
        count = len({image.tobytes() for image in group})
        different.append((count - 1) / (len(group) - 1))
        for a, b in combinations(group.astype(np.int16), 2):
            pixels.append((np.linalg.norm(a - b, axis=-1) > VISIBLE).mean())
    return {"different": float(np.mean(different)), "variety": float(np.mean(pixels))}
