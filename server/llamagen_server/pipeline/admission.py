"""Admission: how many images may be in flight."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from llamagen_server.core import metrics
from llamagen_server.core.errors import InvalidRequestError, OverloadedError
from llamagen_server.core.options import MAX_IN_FLIGHT


class Admission:
    """Counts the images that are accepted and not finished, and refuses those above the limit."""

    def __init__(self, max_in_flight: int = MAX_IN_FLIGHT) -> None:
        self.max_in_flight = max_in_flight
        self.in_flight = 0
        metrics.IN_FLIGHT_LIMIT.set(max_in_flight)

    @contextmanager
    def admit(self, images: int) -> Iterator[None]:
        """Holds places for ``images`` images.

        Raises:
            InvalidRequestError: the request alone is above the limit.
            OverloadedError: there are not enough places now.
        """
        if images > self.max_in_flight:
            raise InvalidRequestError(
                f"n is {images}, must be at most {self.max_in_flight}, the server's limit of images in flight", "n"
            )
        if self.in_flight + images > self.max_in_flight:
            raise OverloadedError(f"{self.in_flight} images are in flight, at most {self.max_in_flight} are allowed")
        self._count(images)
        try:
            yield
        finally:
            self._count(-images)

    def _count(self, images: int) -> None:
        self.in_flight += images
        metrics.IN_FLIGHT.set(self.in_flight)
