"""Admission: which requests are accepted, and the order of their images."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from llamagen_server.core import metrics
from llamagen_server.core.errors import InvalidRequestError, OverloadedError
from llamagen_server.core.options import NO_LIMITS, Limits
from llamagen_server.core.rounds import Rounds
from llamagen_server.pipeline.throughput import Throughput

SHARE = 4
"""Places that a client may hold for each free one, where several clients share a server."""
MARGIN = 0.7
"""Share of a timeout that the images ahead may take: the rate changes while a request waits."""
MAX_RETRY_AFTER = 300
"""Longest time that a refused client is asked to wait, seconds."""


@dataclass(frozen=True, eq=False)
class Place:
    """The place of one image in the queue."""

    client: str
    round: int
    """Priority of the image: lower rounds go first (`core.rounds`)."""


class Admission:
    """Accepts requests while there are places and time for them. Accepted images go to the engine at once.

    The cost of an image is fixed, so a count of images is a measure of the work. Three rules refuse a request, with the
    time after which it is worth another try:

    - **full**: there are not enough places. There are ``max_in_flight``, and a request holds one for each of its images
      until all are finished.
    - **share**: the client has images in flight, and would take a place while it holds `SHARE` times as many as are
      free, or more. So two busy clients hold 4/9 of the places each, and 1/9 is free for the next one (dynamic
      thresholds: Choudhury, Hahne 1998). Until a second client is seen, the first may hold all places.
    - **deadline**: the engine is full, and the images ahead of the request's last one take longer than `MARGIN` of its
      timeout at the measured rate. With `NO_LIMITS` the caller decides how many requests wait.
    """

    def __init__(self, limits: Limits, batch: int) -> None:
        """``batch`` is the number of images that the engine computes at a time."""
        self.limits, self._batch = limits, batch
        self.throughput = Throughput(min(batch, limits.max_in_flight))
        self._held: Counter[str] = Counter()
        """Places by client."""
        self._queue: set[Place] = set()
        """Places of unfinished images."""
        self._rounds = Rounds()
        self._first_client: str | None = None
        self._is_shared = False
        metrics.IN_FLIGHT_LIMIT.set(limits.max_in_flight)

    @property
    def in_flight(self) -> int:
        """Number of places that are held."""
        return self._held.total()

    @contextmanager
    def hold(self, images: int, client: str = "") -> Iterator[None]:
        """Holds places without a place in the queue, for work that needs no engine.

        Raises:
            InvalidRequestError: the request alone is above the limit.
            OverloadedError: there are not enough places for this client now.
        """
        self._check_places(images, client)
        self._count(client, images)
        try:
            yield
        finally:
            self._count(client, -images)

    @contextmanager
    def admit(self, images: int, client: str = "", timeout: float = math.inf) -> Iterator[list[Place]]:
        """Holds places for ``images`` images, in the order of the queue. Call `finish` for each that is finished.

        Raises:
            InvalidRequestError: the request alone is above the limit.
            OverloadedError: there are not enough places for this client now, or ``timeout`` seconds are too short.
        """
        with self.hold(images, client):
            self._check_deadline(images, client, timeout)
            places = [Place(client, self._rounds.enter(client)) for _ in range(images)]
            self._queue.update(places)
            self.throughput.count(len(self._queue))
            try:
                yield places
            finally:
                for place in places:
                    self._leave(place, served=False)

    def finish(self, place: Place) -> None:
        """Takes a finished image off the queue."""
        self.throughput.finish()
        self._leave(place, served=True)

    def _leave(self, place: Place, served: bool) -> None:
        if place in self._queue:
            self._queue.remove(place)
            self._rounds.leave(place.client, place.round, served)
            self.throughput.count(len(self._queue))

    def _count(self, client: str, images: int) -> None:
        self._held[client] += images
        if not self._held[client]:
            del self._held[client]
        metrics.IN_FLIGHT.set(self.in_flight)

    def _check_places(self, images: int, client: str) -> None:
        limit = self.limits.max_in_flight
        if images > limit:
            raise InvalidRequestError(
                f"n is {images}, must be at most {limit}, the server's limit of images in flight", "n"
            )
        if self._first_client is None:
            self._first_client = client
        self._is_shared |= client != self._first_client
        free, held = limit - self.in_flight, self._held[client]
        if images > free:
            message = f"{self.in_flight} images are in flight, at most {limit} are allowed"
            raise self._refusal("full", message, images - free)
        excess = held + images - 1 - SHARE * (free - images + 1)  # when the last place is taken
        if self._is_shared and held and excess >= 0:
            message = f"{held} images of this key are in flight, and only {free} of {limit} places are free for all"
            raise self._refusal("share", message, excess // (SHARE + 1) + 1)

    def _check_deadline(self, images: int, client: str, timeout: float) -> None:
        if self.limits == NO_LIMITS or not self.throughput.rate or len(self._queue) < self._batch:
            return
        last = self._rounds.next(client) + images - 1
        ahead = sum(place.round <= last for place in self._queue) + images - 1
        if (seconds := self.throughput.seconds(ahead)) > MARGIN * timeout:
            needed = math.ceil(seconds / MARGIN)
            message = (
                f"the {ahead} images ahead take about {seconds:.0f} seconds: timeout is {timeout:g}, must be {needed}"
            )
            raise self._refusal("deadline", message, ahead - MARGIN * timeout * self.throughput.rate)

    def _refusal(self, reason: str, message: str, images: float) -> OverloadedError:
        """Returns the error of a request that could be accepted once so many images more are finished."""
        metrics.REJECTED.labels(reason).inc()
        seconds = math.ceil(self.throughput.seconds(images))
        return OverloadedError(message, retry_after=min(max(seconds, 1), MAX_RETRY_AFTER))
