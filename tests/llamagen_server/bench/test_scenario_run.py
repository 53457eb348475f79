"""Running a scenario: the search for saturation, the phases, the metrics, the figures."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import httpx
import pytest

from llamagen_server.bench.http import LoadClient
from llamagen_server.bench.load import Kind
from llamagen_server.bench.outcomes import Outcome
from llamagen_server.bench.requests import Requests
from llamagen_server.bench.scenario import Phase, Scenario
from llamagen_server.bench.scenario_figures import kind_rows, knee, phase_rows, server_rows
from llamagen_server.bench.scenario_report import report
from llamagen_server.bench.scenario_run import (
    PhaseResult,
    Saturation,
    ScenarioResult,
    measure_saturation,
    run_scenario,
    throughput,
)

Answer = Callable[[httpx.Request], Awaitable[httpx.Response]]


T = TypeVar("T")


def on_server(answer: Answer, work: Callable[[LoadClient], Awaitable[T]]) -> T:
    """Runs ``work`` with a client of a server that answers so."""

    async def run() -> T:
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://test") as http:
            return await work(LoadClient(http, Requests(({},)), 60))

    return asyncio.run(run())


class Slow:
    """A server that works on ``places`` images at a time, for ``seconds`` each, and counts them in its metrics."""

    def __init__(self, places: int, seconds: float) -> None:
        self.places, self.seconds, self.images = asyncio.Semaphore(places), seconds, 0

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/metrics":
            return httpx.Response(200, text=f"llamagen_images_total {self.images}\nllamagen_images_in_flight 3\n")
        async with self.places:
            await asyncio.sleep(self.seconds)
        self.images += 1
        return httpx.Response(200, json={"images": [{}], "timings": {"engine_ms": 5.0}})


def test_saturation_is_found() -> None:
    """The server completes at most 20 images/s alone and 80 together; a busy machine makes it slower."""
    found = on_server(Slow(4, 0.05), lambda client: measure_saturation(client, scale=0.04))
    assert list(found.loops)[:3] == [1, 4, 16]
    assert 2 * found.loops[1] < found.loops[4]
    assert found.loops[1] < 22
    assert found.images_per_s == max(found.loops.values()) < 88
    assert found.latency_ms >= 50


def test_a_known_saturation_is_not_searched_for() -> None:
    found = on_server(Slow(4, 0.02), lambda client: measure_saturation(client, 0.01, images_per_s=80))
    assert (found.images_per_s, found.loops) == (80, {})
    assert found.latency_ms >= 20


def test_the_search_ends_where_requests_are_refused() -> None:
    busy = itertools.count(1)

    async def refuse(request: httpx.Request) -> httpx.Response:
        if next(busy) > 8:
            return httpx.Response(429)
        await asyncio.sleep(0.01)
        return httpx.Response(200, json={"images": [{}], "timings": {}})

    found = on_server(refuse, lambda client: measure_saturation(client, 0.001))
    assert list(found.loops) == [1]


def test_a_server_that_completes_nothing_is_an_error() -> None:
    async def refuse(request: httpx.Request) -> httpx.Response:
        return httpx.Response(503, json={"error": {"message": "the model is loading"}})

    with pytest.raises(ValueError, match="the server completes no request: the model is loading"):
        on_server(refuse, measure_saturation)


@pytest.mark.parametrize("spread", [0.0, 0.02])
def test_throughput_of_images_that_end_in_rounds(spread: float) -> None:
    """Three rounds of 4 images of 2 s each, whose ends are a little apart: 2 images/s."""
    outcomes = [done(start=2.0 * (i // 4) + spread * (i % 4), seconds=2) for i in range(12)]
    assert throughput(outcomes, 4) == pytest.approx(2)


def done(number: int = 0, start: float = 0.0, seconds: float = 1.0, **fields: Any) -> Outcome:
    times = {"e2el": seconds * 1000, "engine": 500.0}
    return Outcome(number, start, images=0 if "error" in fields else 1, times=times, **fields)


SCENARIO = Scenario(
    name="test",
    description="Two phases.",
    phases=(
        Phase(name="first", rate=0.5, seconds=0.4, warm_up=True),
        Phase(name="second", rate=0.5, seconds=0.4),
        Phase(name="third", concurrency=2, seconds=0.2),
    ),
)


def test_phases_follow_each_other_and_every_request_counts_once() -> None:
    server = Slow(100, 0.05)
    result = on_server(server, lambda client: run_scenario(client, SCENARIO, Saturation(80, 50)))
    assert [phase.phase.name for phase in result.phases] == ["first", "second", "third"]
    for phase, seconds in zip(result.phases, (0.4, 0.4, 0.2), strict=True):
        assert phase.end - phase.start >= seconds
        assert all(phase.start <= outcome.start <= phase.end for outcome in phase.outcomes)
    for earlier, later in itertools.pairwise(result.phases):
        assert later.start >= earlier.end
    numbers = [outcome.number for outcome in result.outcomes]
    assert len(set(numbers)) == len(numbers) == server.images
    assert result.goodput_ms == 4 * 50
    assert [row["phase"] for row in phase_rows(result)] == ["second", "third"]
    assert result.metrics[0][1]["llamagen_images_total", ""] == 0
    assert result.metrics[-1][1]["llamagen_images_total", ""] == server.images
    assert f"The server counted {server.images} finished images, as many as this client received" in report(result, "")


def test_a_server_without_metrics_is_measured_too() -> None:
    async def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/metrics":
            return httpx.Response(404, text="not here")
        return httpx.Response(200, json={"images": [{}], "timings": {}})

    result = on_server(answer, lambda client: run_scenario(client, SCENARIO, Saturation(80, 50)))
    assert result.metrics == []
    assert set(server_rows(result)[0]) == {"phase", "text, s", "engine, s", "decode, s", "file, s"}
    assert "The server shows no metrics" in report(result, "")


def result_of(phases: list[list[Outcome]], mix: tuple[Kind, ...] = (Kind(),)) -> ScenarioResult:
    """A result with phases of ten seconds and a goal of two seconds."""
    described = [Phase(name=f"phase {i}", rate=0.1 * (i + 1), seconds=10) for i in range(len(phases))]
    scenario = Scenario(name="test", description="", mix=mix, phases=tuple(described))
    results = [
        PhaseResult(phase, phase.load(10), 10.0 * i, 10.0 * (i + 1), outcomes)
        for i, (phase, outcomes) in enumerate(zip(described, phases, strict=True))
    ]
    return ScenarioResult(scenario, Saturation(10, 500), Requests(({},), mix), results, [], 2000)


def test_requests_count_where_they_are_due_and_images_where_they_end() -> None:
    failed = {"error": "gone", "error_kind": "ConnectError"}
    first = [done(0, 1, 1), done(1, 2, 3), done(2, 9, 4), done(3, 5, error="full", error_kind="429"), done(4, **failed)]
    early, late = phase_rows(result_of([first, [done(5, 12, 1)]]))
    assert [early[name] for name in ("requests", "ok", "429", "failed", "within goal")] == [5, 3, 1, 1, "20.0%"]
    assert [early[name] for name in ("p50, s", "p90, s", "p99, s")] == [3, 4, 4]
    assert (early["offered images/s"], early["images/s"]) == (0.5, 0.2)
    assert (late["requests"], late["offered images/s"], late["images/s"]) == (1, 0.1, 0.2)


def test_kinds_have_figures_of_their_own() -> None:
    mix = (Kind(), Kind(n=2, partial_images=1))
    requests = Requests(({},), mix)
    outcomes = [done(i, seconds=requests.kind(i).n) for i in range(40)]
    rows = kind_rows(result_of([outcomes], mix))
    assert [row["kind"] for row in rows] == ["n = 1", "n = 2, 1 previews"]
    assert [row["p99, s"] for row in rows] == [1, 2]
    assert sum(row["requests"] for row in rows) == 40


@pytest.mark.parametrize(("slow_phase", "expected"), [(0, None), (2, "phase 1"), (3, "phase 2")])
def test_the_knee_is_the_last_phase_within_the_goal(slow_phase: int, expected: str | None) -> None:
    phases = [[done(i, 10.0 * phase, 5 if phase == slow_phase else 1) for i in range(9)] for phase in range(3)]
    result = result_of(phases)
    found = knee(result)
    assert (found and found.phase.name) == expected
    assert ("**Knee: below the lowest rate**" in report(result, "")) == (expected is None)
    assert (f"(phase {expected!r})" in report(result, "")) == (expected is not None)


def test_the_report_lists_errors_by_kind_and_a_slow_client() -> None:
    outcomes: Iterator[Outcome] = (done(i, error="full", error_kind="429", late_ms=30) for i in range(3))
    text = report(result_of([[*outcomes, done(9, error="gone", error_kind="ConnectError")]]), "http://test")
    assert "- 3 x 429: full\n- 1 x ConnectError: gone\n" in text
    assert "**the client is too slow for this rate**" in text
