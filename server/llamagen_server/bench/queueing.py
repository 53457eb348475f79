"""A queueing model of a server that batches: latency by arrival rate, from its throughput by images in flight.

The whole server counts as one station whose speed depends on how many images are in it (the flow-equivalent server of
Chandy, Herzog and Woo, 1975): with n images it completes ``rate(n)`` images per second, as a closed loop of n measures.
Arrivals are a Poisson process, and the number of images in the server is taken to be a birth-death chain.

An image that finds n others needs ``(n + 1) / rate(n + 1)`` seconds, as if their number did not change. While all
images in the server progress together, as those of a batch do, the mean over the chain is that of Little's law, which
is exact whatever the distribution of the work (processor sharing). The percentiles are an approximation.

Images beyond the largest batch wait in order. All images are the same work, which halves that wait compared with the
chain's, whose work is exponential (M/D/c against M/M/c; exact for one place by Pollaczek and Khinchine, an
approximation by Cosmetatos, 1975, for more). `simulate` checks all of it.
"""

from __future__ import annotations

import bisect
import itertools
import math
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

TAIL = 1e-9
"""Probability at which the chain is cut off."""


@dataclass(frozen=True)
class ServiceCurve:
    """Images per second that a server completes, by the number of images in it.

    Raises:
        ValueError: a value is not positive, or infinite.
    """

    points: tuple[tuple[int, float], ...]
    """(images in the server, images per second), in ascending order. The rate is linear between them, from 0 images,
    and constant after the last."""
    places: int
    """Largest batch. Images beyond it wait in order."""

    def __post_init__(self) -> None:
        if not self.points or self.places < 1 or any(n < 1 or not 0 < rate < math.inf for n, rate in self.points):
            raise ValueError(f"the service curve has {self.places} places and {list(self.points)}, must be positive")

    @property
    def saturation(self) -> float:
        """Images per second with many images in the server."""
        return self.points[-1][1]

    def rate(self, n: int) -> float:
        """Returns images per second with ``n`` images in the server, n >= 1."""
        i = bisect.bisect_left(self.points, (n, 0.0))
        if i == len(self.points):
            return self.saturation
        (n0, rate0), (n1, rate1) = (self.points[i - 1] if i else (0, 0.0)), self.points[i]
        return rate0 + (rate1 - rate0) * (n - n0) / (n1 - n0)

    def latency(self, n: int) -> float:
        """Returns the seconds of an image with which ``n`` images are in the server, its wait for a place included."""
        batch = min(n, self.places)
        return batch / self.rate(batch) + (n - batch) / self.rate(n) / 2


@dataclass(frozen=True)
class Latency:
    """Latency in seconds at one arrival rate."""

    mean: float
    p50: float
    p99: float


def stationary(curve: ServiceCurve, arrival_rate: float) -> list[float]:
    """Returns the probability of 0, 1, 2, ... images in the server.

    Raises:
        ValueError: the arrival rate is not between 0 and saturation.
    """
    if not 0 < arrival_rate < curve.saturation:
        raise ValueError(f"the rate is {arrival_rate:g} images/s, must be above 0 and below {curve.saturation:g}")
    weights, total = [1.0], 1.0
    last = curve.points[-1][0]
    # After the last point the weights are a geometric series; its rest is known.
    rest = arrival_rate / (curve.saturation - arrival_rate)
    for n in itertools.count(1):
        weights.append(weights[-1] * arrival_rate / curve.rate(n))
        total += weights[-1]
        if n >= last and weights[-1] * rest < TAIL * total:
            break
    return [weight / total for weight in weights]


def predict(curve: ServiceCurve, arrival_rate: float) -> Latency:
    """Returns the latency of the model.

    Raises:
        ValueError: the arrival rate is not between 0 and saturation.
    """
    chain = stationary(curve, arrival_rate)
    mean = sum(p * curve.latency(n + 1) for n, p in enumerate(chain))
    below = list(itertools.accumulate(chain))

    def quantile(q: float) -> float:
        return curve.latency(1 + bisect.bisect_left(below, q, hi=len(below) - 1))

    return Latency(mean, quantile(0.5), quantile(0.99))


def sustainable_rate(curve: ServiceCurve, limit_s: float) -> float:
    """Returns the highest arrival rate whose p99 is at most ``limit_s``, to a thousandth of saturation; 0 if none."""
    low, high = 0, 999
    while low < high:
        middle = (low + high + 1) // 2
        if predict(curve, middle / 1000 * curve.saturation).p99 <= limit_s:
            low = middle
        else:
            high = middle - 1
    return low / 1000 * curve.saturation


def simulate(curve: ServiceCurve, arrival_rate: float, steps: int, count: int = 20_000, seed: int = 0) -> Latency:
    """Simulates the batching of an engine, step by step.

    Images arrive at random and join the batch between two steps; those that find it full wait in order. Each needs
    ``steps`` steps, all images of the batch advance in a step, and a step of n images takes ``n / rate(n) / steps``
    seconds. The first tenth of the images is not counted.

    Args:
        steps: image tokens of an image.
        count: number of images.
    """
    rng = random.Random(seed)
    arrivals = list(itertools.accumulate(rng.expovariate(arrival_rate) for _ in range(count)))
    step_s = [0.0, *(curve.latency(n) / steps for n in range(1, curve.places + 1))]
    batch: deque[tuple[int, float]] = deque()  # (step after which an image is complete, its arrival)
    latencies: list[float] = []
    arrived, now, step = 0, 0.0, 0
    while len(latencies) < count:
        if not batch and arrivals[arrived] > now:
            now = arrivals[arrived]
        while arrived < count and arrivals[arrived] <= now and len(batch) < curve.places:
            batch.append((step + steps, arrivals[arrived]))
            arrived += 1
        now += step_s[len(batch)]
        step += 1
        while batch and batch[0][0] == step:
            latencies.append(now - batch.popleft()[1])
    return _latency(latencies[count // 10 :])


def _latency(values: Sequence[float]) -> Latency:
    ordered = sorted(values)
    p50, p99 = (ordered[int(q * (len(ordered) - 1))] for q in (0.5, 0.99))
    return Latency(sum(ordered) / len(ordered), p50, p99)
