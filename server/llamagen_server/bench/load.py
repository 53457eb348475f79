"""Load on a server: the options of a load test, and the times at which its requests arrive."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

from llamagen_server.bench.outcomes import METRICS


def _check_positive(flag: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{flag} is {value:g}, must be positive")


@dataclass(frozen=True)
class Load:
    """Arrival of requests. Exactly one of the fields is set.

    Raises:
        ValueError: the value is not positive.
    """

    concurrency: int | None = None
    """Closed loop: requests in flight at a time."""
    rate: float | None = None
    """Open loop: mean number of requests per second."""

    def __post_init__(self) -> None:
        assert (self.concurrency is None) != (self.rate is None)
        for flag, value in (("--max-concurrency", self.concurrency), ("--request-rate", self.rate)):
            if value is not None:
                _check_positive(flag, value)

    def __str__(self) -> str:
        return f"{self.rate:g}/s" if self.concurrency is None else f"{self.concurrency} at a time"


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
    burstiness: float = 1.0
    """Shape of the open loop's arrivals: 1 is a Poisson process, smaller values are more bursty."""
    num_prompts: int = 100
    """Requests per load."""
    num_warmups: int = 4
    """Requests before each load that are not counted."""
    prompts: tuple[str, ...] = ("a large red circle on a white background",)
    """Prompts of the requests to a text model, used in turn."""
    n: int = 1
    """Images per request."""
    partial_images: int = 0
    """Previews per image. Above 0 the replies are streamed."""
    cfg_scale: float | None = None
    """Guidance scale; None: the model's default."""
    goodput_ms: float | None = None
    """Latency limit of the requests that count as goodput; None: goodput is not reported."""
    metrics: tuple[str, ...] = ("e2el", "ttfp")
    """Metrics whose percentiles are reported, some of `METRICS`."""
    percentiles: tuple[float, ...] = (50, 95, 99)
    seed: int = 0

    def __post_init__(self) -> None:
        if unknown := [name for name in self.metrics if name not in METRICS]:
            raise ValueError(f"--percentile-metrics has {unknown[0]!r}, must be of {', '.join(METRICS)}")
        if wrong := [p for p in self.percentiles if not 0 < p < 100]:
            raise ValueError(f"--metric-percentiles has {wrong[0]:g}, must be above 0 and below 100")
        _check_positive("--num-prompts", self.num_prompts)
        _check_positive("--burstiness", self.burstiness)
        if self.goodput_ms is not None:
            _check_positive("--goodput", self.goodput_ms)
        if not self.prompts:
            raise ValueError("--prompts has no prompt, must have at least one")


def arrival_times(count: int, rate: float, burstiness: float, seed: int) -> list[float]:
    """Returns when each request of an open loop is due, in seconds after the first.

    The gaps follow a gamma distribution of mean 1 / ``rate`` and shape ``burstiness``, as in ``vllm bench serve``.
    """
    rng = random.Random(seed)
    gaps = (rng.gammavariate(burstiness, 1 / (rate * burstiness)) for _ in range(count - 1))
    return list(itertools.accumulate(gaps, initial=0.0))
