"""Load on a server: how many requests arrive when, which kinds they are, and the options of a load test."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import ConfigDict

from llamagen_server.bench.outcomes import METRICS
from llamagen_server.core.request import MAX_IMAGES

MAX_PREVIEWS = 16
"""Most previews per image that the server sends."""


def check_positive(flag: str, value: float | None) -> None:
    """Checks a value that is set.

    Raises:
        ValueError: it is not positive, or infinite.
    """
    if value is not None and not 0 < value < math.inf:
        raise ValueError(f"{flag} is {value:g}, must be positive and finite")


@dataclass(frozen=True)
class Load:
    """Arrival of requests. Exactly one of ``concurrency`` and ``rate`` is set.

    Raises:
        ValueError: a value is not positive, or infinite.
    """

    concurrency: int | None = None
    """Closed loop: requests in flight at a time."""
    rate: float | None = None
    """Open loop: mean number of requests per second."""
    burstiness: float = 1.0
    """Shape of the open loop's arrivals: 1 is a Poisson process, smaller values are more bursty."""
    num_prompts: int = 100
    """Number of requests, unless ``duration`` is set."""
    duration: float | None = None
    """Seconds during which requests are sent."""

    def __post_init__(self) -> None:
        assert (self.concurrency is None) != (self.rate is None)
        check_positive("--max-concurrency", self.concurrency)
        check_positive("--request-rate", self.rate)
        check_positive("--burstiness", self.burstiness)
        check_positive("--num-prompts", self.num_prompts)
        check_positive("--duration", self.duration)

    def __str__(self) -> str:
        return f"{self.rate:g}/s" if self.concurrency is None else f"{self.concurrency} at a time"

    @property
    def limits(self) -> tuple[int | None, float]:
        """Most requests (None: any number), and seconds after which no request is sent."""
        return (self.num_prompts, math.inf) if self.duration is None else (None, self.duration)


@dataclass(frozen=True)
class Kind:
    """One kind of request in a mix."""

    share: float = 1.0
    """Weight in the mix: a kind with 2 is sent twice as often as one with 1."""
    n: int = 1
    """Images per request."""
    partial_images: int = 0
    """Previews per image. Above 0 the reply is streamed."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    def __post_init__(self) -> None:
        check_positive("share", self.share)
        if not 1 <= self.n <= MAX_IMAGES:
            raise ValueError(f"n is {self.n}, must be 1 to {MAX_IMAGES}")
        if not 0 <= self.partial_images <= MAX_PREVIEWS:
            raise ValueError(f"partial_images is {self.partial_images}, must be 0 to {MAX_PREVIEWS}")

    def __str__(self) -> str:
        return f"n = {self.n}" + (f", {self.partial_images} previews" if self.partial_images else "")


@dataclass(frozen=True)
class LoadOptions:
    """Options of `llamagen_server.bench.http.measure_server`.

    Error messages name the flags of ``llamagen bench serve``.

    Raises:
        ValueError: a value is out of range.
    """

    base_url: str = "http://127.0.0.1:8000"
    api_key: str = "none"
    loads: tuple[Load, ...] = (Load(concurrency=1),)
    """Loads that run one after the other."""
    num_warmups: int = 4
    """Requests before each load that are not counted."""
    prompts: tuple[str, ...] = ("a large red circle on a white background",)
    """Prompts of the requests to a text model, used in turn."""
    mix: tuple[Kind, ...] = (Kind(),)
    """Kinds of requests, chosen at random by their shares."""
    cfg_scale: float | None = None
    """Guidance scale; None: the model's default."""
    timeout: float = 600.0
    """Seconds after which a request without a complete reply has failed."""
    goodput_ms: float | None = None
    """Latency limit of the requests that count as goodput; None: goodput is not reported."""
    metrics: tuple[str, ...] = ("e2el", "ttfp")
    """Metrics whose percentiles are reported, some of `METRICS`."""
    percentiles: tuple[float, ...] = (50, 95, 99)
    seed: int = 0
    """Seed of the images, of the arrivals and of the choice of kinds."""

    def __post_init__(self) -> None:
        if unknown := [name for name in self.metrics if name not in METRICS]:
            raise ValueError(f"--percentile-metrics has {unknown[0]!r}, must be of {', '.join(METRICS)}")
        if wrong := [p for p in self.percentiles if not 0 < p < 100]:
            raise ValueError(f"--metric-percentiles has {wrong[0]:g}, must be above 0 and below 100")
        check_positive("--timeout", self.timeout)
        check_positive("--goodput", self.goodput_ms)
        if not self.prompts:
            raise ValueError("--prompts has no prompt, must have at least one")


def arrival_times(load: Load, rng: random.Random) -> Iterator[float]:
    """Yields when each request of an open loop is due, in seconds after the start.

    The gaps follow a gamma distribution of mean 1 / rate and shape ``burstiness``, as in ``vllm bench serve``. Without
    a duration the first request is due at once.
    """
    assert load.rate
    shape, scale = load.burstiness, 1 / (load.rate * load.burstiness)
    gaps = (rng.gammavariate(shape, scale) for _ in itertools.count())
    count, seconds = load.limits
    times = itertools.islice(itertools.accumulate(gaps, initial=0.0 if load.duration is None else None), count)
    return itertools.takewhile(lambda due: due < seconds, times)
