"""Counts of the images that this process samples, by their guidance, and the check that none loses it.

A logits processor opens an `ImageGuidance` for each image and reports every token whose logits it mixed. A token that
was sampled in between was not mixed. The counts live in the worker; the worker extension hands them out.
"""

from __future__ import annotations

import logging
import uuid
from dataclasses import asdict, dataclass, field

logger = logging.getLogger(__name__)

EXTENSION = "vllm_llamagen.guidance_counts.GuidanceCountsExtension"
"""Value of vLLM's ``worker_extension_cls`` argument."""


@dataclass
class GuidanceCounts:
    """Images of one process since it started. An image that goes on after a preemption counts once."""

    process: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Identity of the process; another one has counted from 0."""
    guided: int = 0
    """Images that asked for guidance, sampled from logits mixed from both branches."""
    conditional: int = 0
    """Images that asked for none, sampled from the conditional branch alone."""
    unguided: int = 0
    """Images that asked for guidance of which a token was sampled without it. They may be in ``guided`` too."""


COUNTS = GuidanceCounts()


class GuidanceCountsExtension:
    """vLLM adds this class to its worker, whose methods ``collective_rpc`` calls by name."""

    def guidance_counts(self) -> dict[str, str | int]:
        """Returns the fields of `GuidanceCounts`."""
        return asdict(COUNTS)


class ImageGuidance:
    """The guidance of one image, token by token."""

    __slots__ = ("asked", "done")

    def __init__(self, asked: bool, done: int = 0) -> None:
        """``asked``: a scale other than 1 applies to a token of it. ``done``: tokens sampled before a preemption."""
        self.asked, self.done = asked, done

    def check(self, sampled: int) -> None:
        """Counts the image as unguided if more tokens of it were sampled than were mixed. Called between two steps."""
        if self.asked and sampled > self.done:
            self._lost()

    def sample(self, token: int, mixed: bool, count: int = 1) -> None:
        """Notes that a token is sampled now: from mixed logits, or from those of the conditional branch alone.

        ``token`` is the number of tokens sampled before it. ``count``: up to that many tokens are sampled at once.
        """
        self.check(token)
        if self.asked and not mixed:
            self._lost()
        elif self.done == 0 and self.asked:
            COUNTS.guided += 1
        elif self.done == 0:
            COUNTS.conditional += 1
        self.done = max(self.done, token + count)

    def _lost(self) -> None:
        count_unguided()
        self.asked = False  # an image counts once
        self.done = max(self.done, 1)  # and is not a conditional one


def count_unguided() -> None:
    """Counts an image as unguided, and logs it."""
    COUNTS.unguided += 1
    logger.error("an image was sampled without the guidance that it asked for")
