"""What each image of a set is: its class or caption and its seed follow from its index alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llamagen_server.core.request import MAX_SEED, ImageRequest


@dataclass(frozen=True)
class Shard:
    """A part of a set: images in sequence, of parts as equal as possible."""

    number: int = 1
    """From 1 to ``of``."""
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Reads ``2/8``. Raises ValueError if it is no shard."""
        match = re.fullmatch(r"(\d+)/(\d+)", text, re.ASCII)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise ValueError(f"--shard is {text!r}, must be I/N with I from 1 to N, such as 2/8")
        return cls(int(match[1]), int(match[2]))

    def indices(self, count: int) -> range:
        """Returns the indices of this shard among those of ``count`` images.

        Raises:
            ValueError: there are fewer images than shards.
        """
        if count < self.of:
            raise ValueError(f"--shard is {self}, but there are {count} images only")
        return range(count * (self.number - 1) // self.of, count * self.number // self.of)

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


@dataclass(frozen=True)
class SamplePlan:
    """A set of ``count`` images. Image i has the seed ``first_seed + i``.

    Of a class model, image i has class ``i mod len(class_ids)`` of the list, so any part of the set is balanced. Of a
    text model, each caption has a group of ``group`` images in sequence.
    """

    count: int
    first_seed: int
    class_ids: Sequence[int] = ()
    captions: Sequence[str] = ()
    group: int = 1
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """Sampling fields of `ImageRequest`."""

    def seed(self, index: int) -> int:
        return (self.first_seed + index) % (MAX_SEED + 1)

    def condition(self, index: int) -> int | str:
        """Returns the class id or the caption of an image."""
        if self.captions:
            return self.captions[index // self.group % len(self.captions)]
        return self.class_ids[index % len(self.class_ids)]

    def numbered_captions(self, indices: range) -> dict[int, str]:
        """Returns the captions of some images by their numbers in the file, from 1."""
        if not self.captions:
            return {}
        numbers = sorted({index // self.group % len(self.captions) for index in indices})
        return {number + 1: self.captions[number] for number in numbers}

    def request(self, index: int) -> ImageRequest:
        condition = self.condition(index)
        fields: dict[str, Any] = {"class_id" if isinstance(condition, int) else "prompt": condition}
        return ImageRequest(**fields, seed=self.seed(index), **self.sampling)
