"""The load test's client, and ``llamagen bench serve`` against the app with a fake engine."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from tests.helpers.app import make_app
from tests.helpers.app_on_a_port import serve

from llamagen_server.bench.http import LoadClient
from llamagen_server.bench.load import Kind, Load, arrival_times
from llamagen_server.bench.outcomes import Outcome
from llamagen_server.bench.requests import Requests
from llamagen_server.cli import main as cli


@pytest.fixture
def url(class_model_dir: Path) -> Iterator[str]:
    with serve(make_app(class_model_dir)) as address:
        yield address


@pytest.mark.parametrize("flags", [["--max-concurrency", "1", "4"], ["--request-rate", "200", "--partial-images", "2"]])
def test_a_run(url: str, flags: list[str], tmp_path: Path) -> None:
    result = tmp_path / "r.json"
    words = ["--num-prompts", "12", "--num-warmups", "1", "--n", "2", "--goodput", "e2el:60000", *flags]
    cli.main(["bench", "serve", "--base-url", url, "--api-key", "secret", "--save-result", str(result), *words])
    saved = json.loads(result.read_text())
    assert (saved["settings"]["base_url"], saved["settings"]["num_prompts"]) == (url, 12)
    assert "secret" not in result.read_text()
    assert [row["load"] for row in saved["rows"]] == (["1 at a time", "4 at a time"] if "4" in flags else ["200/s"])
    for row in saved["rows"]:
        assert (row["requests"], row["error_rate"]) == (12, 0)
        images_per_s = pytest.approx(row["images_per_s"])
        assert 2 * row["requests_per_s"] == images_per_s
        assert 2 * row["goodput_per_s"] == images_per_s
        assert 0 < row["e2el_p50_ms"] <= row["e2el_p99_ms"]
        assert ("ttfp_p50_ms" in row) == ("--partial-images" in flags)


@pytest.mark.parametrize(
    ("path", "reply"),
    [
        ("/metrics", PlainTextResponse("metrics are at each replica", 404)),  # as behind deploy/proxy
        ("/v1/models", JSONResponse({"data": [{"id": "tiny", "owned_by": "vllm"}]})),  # as in vLLM's own server
    ],
)
def test_a_server_with_other_replies(path: str, reply: Response, class_model_dir: Path, tmp_path: Path) -> None:
    app = make_app(class_model_dir)
    app.router.routes.insert(0, Route(path, lambda _: reply))
    result = tmp_path / "r.json"
    with serve(app) as url:
        cli.main(["bench", "serve", "--base-url", url, "--num-prompts", "2", "--save-result", str(result)])
    [row] = json.loads(result.read_text())["rows"]
    assert (row["requests"], row["error_rate"]) == (2, 0)
    assert (row["queue_ms"] == "", row["lag_p99_ms"] == "") == (path == "/metrics", path == "/metrics")


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self._yield = asyncio.sleep
        monkeypatch.setattr("llamagen_server.bench.http.time.perf_counter", lambda: self.now)
        monkeypatch.setattr("llamagen_server.bench.http.asyncio.sleep", self.sleep)

    async def sleep(self, seconds: float) -> None:
        await self._yield(0)  # tasks that are due run first
        self.now += max(0.0, seconds)


class Recorder(LoadClient):
    """Records when each request starts and how many are in flight. A request takes no time but that of ``pause``."""

    def __init__(self, clock: Clock, seed: int = 0, pause: float = 0) -> None:
        super().__init__(httpx.AsyncClient(), Requests(({},), seed=seed), 1)
        self.clock, self.pause = clock, pause
        self.starts: list[tuple[int, float]] = []
        self.in_flight: set[int] = set()
        self.most_in_flight = 0

    async def send(self, number: int, due: float | None = None) -> Outcome:
        self.starts.append((number, self.clock.now))
        self.in_flight.add(number)
        self.most_in_flight = max(self.most_in_flight, len(self.in_flight))
        await asyncio.sleep(self.pause)
        self.in_flight.remove(number)
        return Outcome(number)


def test_an_open_loop_starts_requests_when_they_are_due(monkeypatch: pytest.MonkeyPatch) -> None:
    load = Load(rate=5, num_prompts=20, burstiness=0.5)
    client = Recorder(Clock(monkeypatch), seed=3)
    outcomes = asyncio.run(client.run(load))
    assert client.starts == [(i, pytest.approx(due)) for i, due in enumerate(arrival_times(load, random.Random(3)))]
    assert [outcome.number for outcome in outcomes] == list(range(20))


def test_a_closed_loop_keeps_its_concurrency(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Recorder(Clock(monkeypatch))
    outcomes = asyncio.run(client.run(Load(concurrency=3, num_prompts=20)))
    assert client.most_in_flight == 3
    assert [outcome.number for outcome in outcomes] == list(range(20))


@pytest.mark.parametrize("load", [Load(concurrency=1, duration=20), Load(rate=2, duration=20)])
def test_a_load_with_a_duration_takes_that_long(monkeypatch: pytest.MonkeyPatch, load: Load) -> None:
    clock = Clock(monkeypatch)
    client = Recorder(clock, pause=0.5 if load.concurrency else 0)
    numbers = itertools.count()

    async def twice() -> list[float]:
        ends = []
        for _ in range(2):
            await asyncio.gather(*await client.launch(load, numbers))
            ends.append(clock.now)
        return ends

    assert asyncio.run(twice()) == [pytest.approx(20, abs=0.51), pytest.approx(40, abs=1.01)]
    assert len(client.starts) == pytest.approx(80, rel=0.2)
    assert len({number for number, _ in client.starts}) == len(client.starts)


def test_latency_counts_from_the_time_a_request_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    clock.now = 7.0

    async def late() -> Outcome:
        transport = httpx.MockTransport(lambda _: httpx.Response(200, json={"images": [{}], "timings": {}}))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            return await LoadClient(http, Requests(({},)), 60).send(0, due=5.0)

    outcome = asyncio.run(late())
    assert (outcome.start, outcome.late_ms, outcome.times["e2el"], outcome.end) == (5, 2000, 2000, 7)


def outcomes_of(reply: httpx.Response | Exception, kind: Kind | None = None, timeout: float = 60) -> list[Outcome]:
    """Outcomes of two requests to a server that always sends this reply, or fails so."""

    async def answer(request: httpx.Request) -> httpx.Response:
        bodies.append(json.loads(request.content))
        if isinstance(reply, Exception):
            raise reply
        if reply.status_code == 504:
            await asyncio.sleep(60)
        return httpx.Response(reply.status_code, content=reply.content)

    async def run() -> list[Outcome]:
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://test") as http:
            requests = Requests(({},), (kind or Kind(),), seed=5)
            return await LoadClient(http, requests, timeout).run(Load(concurrency=1, num_prompts=2))

    bodies: list[dict[str, Any]] = []
    outcomes = asyncio.run(run())
    assert [body["seed"] for body in bodies] == [5000, 5001]
    return outcomes


def events(*items: dict[str, Any]) -> httpx.Response:
    return httpx.Response(200, text="".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in items))


STREAM = Kind(partial_images=1)


def test_a_reply_has_images_and_timings() -> None:
    for outcome in outcomes_of(httpx.Response(200, json={"images": [{}, {}, {}], "timings": {"engine_ms": 12.5}})):
        assert (outcome.images, outcome.times["engine"], outcome.error) == (3, 12.5, None)


def test_a_stream_has_images_timings_and_the_first_preview() -> None:
    done = {"type": "done", "timings": {"engine_ms": 12.5}}
    for outcome in outcomes_of(events({"type": "partial_image"}, {"type": "completed"}, done), STREAM):
        assert (outcome.images, outcome.times["engine"], outcome.error) == (1, 12.5, None)
        assert 0 < outcome.times["ttfp"] <= outcome.times["e2el"]


@pytest.mark.parametrize(
    ("reply", "kind", "error_kind", "error"),
    [
        (httpx.Response(429, json={"error": {"message": "full"}}), None, "429", "full"),
        (httpx.Response(429, json={"error": {"message": "full"}}), STREAM, "429", "full"),
        (httpx.Response(502, text="<html>\nbad gateway"), None, "502", "<html>"),
        (httpx.Response(503), None, "503", "Service Unavailable"),
        (httpx.Response(200, text="nothing"), None, "JSONDecodeError", "Expecting value"),
        (httpx.ConnectError("refused"), None, "ConnectError", "refused"),
        (httpx.Response(504), None, "timeout", "no complete reply within 0.05 s"),
        (events({"type": "error", "error": {"message": "the engine stopped"}}), STREAM, "stream", "the engine stopped"),
        (events({"type": "completed"}), STREAM, "stream", "the stream ended before the image was complete"),
    ],
)
def test_errors_by_kind(reply: httpx.Response | Exception, kind: Kind | None, error_kind: str, error: str) -> None:
    for outcome in outcomes_of(reply, kind, timeout=0.05 if error_kind == "timeout" else 60):
        assert outcome.error_kind == error_kind
        assert outcome.error is not None
        assert outcome.error.startswith(error)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--percentile-metrics", "ttft"], "--percentile-metrics has 'ttft', must be of e2el, ttfp"),
        (["--metric-percentiles", "50,x"], "--metric-percentiles is '50,x', must be numbers such as 50,99"),
        (["--goodput", "ttft:3"], "--goodput is 'ttft:3', must be e2el and milliseconds, such as e2el:2000"),
        (["--goodput", "e2el:fast"], "--goodput is 'e2el:fast', must be"),
        (["--n", "0"], "n is 0, must be 1 to 10"),
        (["--request-rate", "-1"], "--request-rate is -1, must be positive"),
        (["--request-rate", "inf"], "--request-rate is inf, must be positive and finite"),
        (["--base-url", "http://127.0.0.1:9"], "http://127.0.0.1:9 does not answer"),
    ],
)
def test_wrong_flags_are_refused(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["bench", "serve", *flags])
    assert end.value.code == 2
    assert f"llamagen bench: {message}" in capsys.readouterr().err


@pytest.mark.parametrize("benchmark", ["engine", "serve", "scenario"])
def test_help_ends_with_an_example(benchmark: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["bench", benchmark, "--help"])
    *_, heading, example = capsys.readouterr().out.splitlines()
    assert heading == "example:"
    assert example.startswith(f"  llamagen bench {benchmark} ")
