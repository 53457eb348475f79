"""The measured rate of finished images."""

from __future__ import annotations

import time
from collections.abc import Callable

WEIGHT = 0.25
"""Weight of the newest measurement in the rate. A stall of the engine moves the rate by this share at most."""


class Throughput:
    """Finished images per second, over the times when the engine was full.

    Images that start together end together, so a measurement spans as many images as the engine computes at a time: it
    then has the time of one image in it, wherever it begins. The rate is the exponentially weighted moving average of
    the measurements.
    """

    def __init__(self, batch: int, clock: Callable[[], float] = time.monotonic) -> None:
        """``batch`` is the number of unfinished images from which the engine is full."""
        self.rate: float | None = None
        """Images per second; None until the first measurement."""
        self._batch, self._clock = batch, clock
        self._is_full = False
        self._since = 0.0
        self._seconds = 0.0
        self._images = 0

    def count(self, unfinished: int) -> None:
        """Takes note of the number of unfinished images; call it whenever that has changed."""
        now = self._clock()
        if self._is_full:
            self._seconds += now - self._since
        self._since, self._is_full = now, unfinished >= self._batch

    def finish(self) -> None:
        """Counts a finished image, before it is taken off the unfinished ones."""
        if not self._is_full:
            return
        self.count(self._batch)
        self._images += 1
        if self._images >= self._batch and self._seconds > 0:
            measured = self._images / self._seconds
            self.rate = measured if self.rate is None else self.rate + WEIGHT * (measured - self.rate)
            self._images, self._seconds = 0, 0.0

    def seconds(self, images: float) -> float:
        """Returns the time in which this many images are finished by a full engine; 0 if the rate is not known."""
        return images / self.rate if self.rate else 0.0
