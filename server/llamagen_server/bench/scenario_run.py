"""Runs a scenario on a server: measures its saturation, sends the requests of the phases, watches its metrics."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx

from llamagen_server.bench.http import LoadClient, Sent
from llamagen_server.bench.load import Load
from llamagen_server.bench.outcomes import Outcome, percentile, times
from llamagen_server.bench.requests import Requests
from llamagen_server.bench.scenario import Phase, Scenario
from llamagen_server.bench.server_metrics import Samples, read_metrics

logger = logging.getLogger(__name__)

CLOSED_LOOPS = (1, 4, 16, 64, 256)
"""Requests at a time in the search for saturation."""
WORTHWHILE = 1.1
"""The search ends when a larger closed loop completes less than this many times the images of the one before it."""
CLOSED_LOOP_SECONDS = 5.0
"""Seconds that one closed loop of the search takes, or longer if a server is slow."""


@dataclass(frozen=True)
class Saturation:
    """The most that a server completes with one mix of requests, and its latency without load."""

    images_per_s: float
    latency_ms: float
    """Median latency of a request alone."""
    loops: dict[int, float] = field(default_factory=dict)
    """Images per second by requests at a time; empty if the rate was given."""


@dataclass(frozen=True)
class PhaseResult:
    """Outcomes of the requests that were due in one phase; times as from ``time.perf_counter``."""

    phase: Phase
    load: Load
    start: float
    end: float
    outcomes: list[Outcome]


@dataclass(frozen=True)
class ScenarioResult:
    """Everything that was measured in one scenario."""

    scenario: Scenario
    saturation: Saturation
    requests: Requests
    phases: list[PhaseResult]
    metrics: list[tuple[float, Samples]]
    """The server's metrics over time; empty if it shows none."""
    goodput_ms: float
    """Largest latency that counts as good."""

    @property
    def outcomes(self) -> list[Outcome]:
        return [outcome for phase in self.phases for outcome in phase.outcomes]


async def run_scenario(
    client: LoadClient, scenario: Scenario, saturation: Saturation, goodput_ms: float | None = None
) -> ScenarioResult:
    """Runs all phases and waits for the last reply.

    Args:
        goodput_ms: largest latency that counts as good; None: the scenario's goal times the latency without load.
    """
    numbers = itertools.count()
    phases: list[tuple[PhaseResult, Sent]] = []
    seconds = sum(phase.seconds for phase in scenario.phases)
    async with watch_metrics(client.http, max(seconds / 300, min(1.0, seconds / 20))) as metrics:
        for phase in scenario.phases:
            load = phase.load(saturation.images_per_s / scenario.images_per_request)
            logger.info("%s: %s for %g s", phase.name, load, phase.seconds)
            start = time.perf_counter()
            sent = await client.launch(load, numbers)
            phases.append((PhaseResult(phase, load, start, time.perf_counter(), []), sent))
        for result, sent in phases:
            result.outcomes.extend(await asyncio.gather(*sent))
    return ScenarioResult(
        scenario,
        saturation,
        client.requests,
        [result for result, _ in phases],
        metrics,
        goodput_ms or scenario.latency_goal * saturation.latency_ms,
    )


@asynccontextmanager
async def watch_metrics(http: httpx.AsyncClient, interval: float) -> AsyncIterator[list[tuple[float, Samples]]]:
    """Yields a list that grows by the server's metrics every ``interval`` seconds, at the start and at the end.

    A read that finds none, such as one refused by a proxy, is left out.
    """
    samples: list[tuple[float, Samples]] = []

    async def read() -> None:
        if found := await read_metrics(http):
            samples.append((time.perf_counter(), found))

    async def watch() -> None:
        while True:
            await asyncio.sleep(interval)
            await read()

    await read()
    watcher = asyncio.create_task(watch())
    try:
        yield samples
    finally:
        watcher.cancel()
        await asyncio.wait([watcher])
    await read()


async def measure_saturation(client: LoadClient, scale: float = 1.0, images_per_s: float | None = None) -> Saturation:
    """Sends requests in ever larger closed loops until more of them bring nothing.

    Args:
        scale: multiplies the time of a loop, of which the slowest need more.
        images_per_s: known saturation; then only the latency of a request alone is measured.

    Raises:
        ValueError: the server does not complete the first requests.
    """
    numbers = itertools.count(-1, -1)  # none of the scenario's own requests
    await _closed_loop(client, 1, 1, numbers)  # warms the server up
    [first] = outcomes = await _closed_loop(client, 1, 1, numbers)
    requests_per_s = 1000 / first.times["e2el"]
    latency_ms, loops = 0.0, {}
    for concurrency in CLOSED_LOOPS[:1] if images_per_s else CLOSED_LOOPS:
        count = max(3 * concurrency, math.ceil(CLOSED_LOOP_SECONDS * scale * requests_per_s))
        outcomes = await _closed_loop(client, concurrency, count, numbers)
        if any(outcome.error for outcome in outcomes):
            break
        latency_ms = latency_ms or percentile(times(outcomes, "e2el"), 50)
        loops[concurrency] = throughput(outcomes, concurrency)
        logger.info("%d at a time: %.3g images/s", concurrency, loops[concurrency])
        if loops[concurrency] < WORTHWHILE * loops.get(concurrency // 4, 0.0):
            break
        requests_per_s = loops[concurrency] * len(outcomes) / sum(outcome.images for outcome in outcomes)
    if not loops:
        raise ValueError(f"the server completes no request: {next(o.error for o in outcomes if o.error)}")
    return Saturation(images_per_s or max(loops.values()), latency_ms, {} if images_per_s else loops)


async def _closed_loop(client: LoadClient, concurrency: int, count: int, numbers: Iterator[int]) -> list[Outcome]:
    load = Load(concurrency=concurrency, num_prompts=count)
    return await asyncio.gather(*await client.launch(load, numbers))


def throughput(outcomes: Sequence[Outcome], concurrency: int) -> float:
    """Returns images per second of a closed loop of at least three requests per place.

    Images that started together end together. So the span counts from the end of the first round to the end of a later
    one, while every place was taken.
    """
    done = sorted(outcomes, key=lambda outcome: outcome.end)
    last = (len(done) // concurrency - 1) * concurrency
    images = sum(outcome.images for outcome in done[concurrency:last])
    return images / (done[last - 1].end - done[concurrency - 1].end)
