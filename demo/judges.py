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
from demo.shapes.captions import Attribute, Caption, held_out_captions
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
    def right(self, images: np.ndarray) -> np.ndarray:
        """Whether each image shows its condition, bool [conditions, n].

        Args:
            images: uint8 [conditions, n, S, S, 3], n images for each condition.
        """

    @abstractmethod
    def scores(self, images: np.ndarray) -> dict[str, float]:
        """Shares of what is right in such images; the first, "all", is the share of images that are right."""


class CaptionJudge(Judge):
    """Held-out captions of the text demo. Pixels decide whether an image shows an attribute."""

    def __init__(self, captions: Sequence[Caption] | None = None) -> None:
        self.captions = held_out_captions() if captions is None else captions
        self.conditions = [{"prompt": caption.text} for caption in self.captions]

    def right(self, images: np.ndarray) -> np.ndarray:
        """Whether each image shows all attributes of its caption, bool [captions, n]."""
        return np.array([[not failures for failures in group] for group in self._failures(images)])

    def scores(self, images: np.ndarray) -> dict[str, float]:
        """Share of images that show all attributes ("all"), and of stated attributes that are shown, by kind."""
        stated: Counter[str] = Counter()
        failed: Counter[str] = Counter()
        right = []
        for group, caption in zip(self._failures(images), self.captions, strict=True):
            for failures in group:
                right.append(not failures)
                stated.update(attribute.kind for attribute in caption.attributes)
                failed.update(attribute.kind for attribute in failures)
        by_kind = {kind: 1 - failed[kind] / max(stated[kind], 1) for kind in KINDS}
        return {"all": float(np.mean(right)), **by_kind}

    def _failures(self, images: np.ndarray) -> list[list[list[Attribute]]]:
        """Attributes that each image does not show."""
        pairs = zip(images, self.captions, strict=True)
        return [[check(image, caption.attributes) for image in group] for group, caption in pairs]


class ClassJudge(Judge):
    """All classes of the class demo. A classifier that was trained apart names the class of an image."""

    def __init__(self) -> None:
        self.classifier = load_classifier()
        self.conditions = [{"class_id": class_id} for class_id in range(len(CLASSES))]

    def right(self, images: np.ndarray) -> np.ndarray:
        """Whether each image shows its class, bool [classes, n]."""
        found = classify(self.classifier, images.reshape(-1, *images.shape[2:])).reshape(images.shape[:2])
        right: np.ndarray = found == np.arange(len(found))[:, None]
        return right

    def scores(self, images: np.ndarray) -> dict[str, float]:
        """Share of images of the right class ("all"), and that of the class with the smallest share ("worst class")."""
        shares = self.right(images).mean(axis=1)
        return {"all": float(shares.mean()), "worst class": float(shares.min())}


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
