"""The load test's client, and ``llamagen bench serve`` against the app with a fake engine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.helpers.app import make_app
from tests.helpers.app_on_a_port import serve

from llamagen_server.bench.http import LoadClient
from llamagen_server.bench.load import Load, LoadOptions, arrival_times
from llamagen_server.bench.outcomes import Outcome
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
    """Records when each request starts and how many are in flight. A request takes no time."""

    def __init__(self, options: LoadOptions, clock: Clock) -> None:
        super().__init__(options, httpx.AsyncClient(), [])
        self.clock = clock
        self.starts: list[tuple[int, float]] = []
        self.in_flight: set[int] = set()
        self.most_in_flight = 0

    async def send(self, i: int) -> Outcome:
        self.starts.append((i, self.clock.now))
        self.in_flight.add(i)
        self.most_in_flight = max(self.most_in_flight, len(self.in_flight))
        await asyncio.sleep(0)
        self.in_flight.remove(i)
        return Outcome(images=i)


def test_an_open_loop_starts_requests_when_they_are_due(monkeypatch: pytest.MonkeyPatch) -> None:
    options = LoadOptions(num_prompts=20, burstiness=0.5, seed=3)
    client = Recorder(options, Clock(monkeypatch))
    outcomes = asyncio.run(client.run(Load(rate=5)))
    assert client.starts == [(i, pytest.approx(due)) for i, due in enumerate(arrival_times(20, 5, 0.5, 3))]
    assert [outcome.images for outcome in outcomes] == list(range(20))


def test_a_closed_loop_keeps_its_concurrency(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Recorder(LoadOptions(num_prompts=20), Clock(monkeypatch))
    outcomes = asyncio.run(client.run(Load(concurrency=3)))
    assert client.most_in_flight == 3
    assert [outcome.images for outcome in outcomes] == list(range(20))


def outcomes_of(replies: dict[str, Any] | bytes, **options: Any) -> list[Outcome]:
    """Outcomes of two requests to a server that always sends this JSON or this stream of events."""

    def answer(request: httpx.Request) -> httpx.Response:
        bodies.append(json.loads(request.content))
        return httpx.Response(200, content=replies) if isinstance(replies, bytes) else httpx.Response(200, json=replies)

    async def run() -> list[Outcome]:
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://test") as http:
            return await LoadClient(LoadOptions(num_prompts=2, seed=5, **options), http, [{}]).run(Load(concurrency=1))

    bodies: list[dict[str, Any]] = []
    outcomes = asyncio.run(run())
    assert bodies == [{"seed": 5000}, {"seed": 5001}]
    return outcomes


def test_a_reply_has_images_and_timings() -> None:
    for outcome in outcomes_of({"images": [{}, {}, {}], "timings": {"engine_ms": 12.5}}):
        assert (outcome.images, outcome.times["engine"], outcome.error) == (3, 12.5, None)


def test_an_error_in_a_stream_is_an_error_of_the_request() -> None:
    event = json.dumps({"type": "error", "error": {"message": "the engine stopped"}})
    for outcome in outcomes_of(f"event: error\ndata: {event}\n\n".encode(), partial_images=1):
        assert outcome.error == "the engine stopped"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--percentile-metrics", "ttft"], "--percentile-metrics has 'ttft', must be of e2el, ttfp"),
        (["--metric-percentiles", "50,x"], "--metric-percentiles is '50,x', must be numbers such as 50,99"),
        (["--goodput", "ttft:3"], "--goodput is 'ttft:3', must be e2el and milliseconds, such as e2el:2000"),
        (["--goodput", "e2el:fast"], "--goodput is 'e2el:fast', must be"),
        (["--request-rate", "-1"], "--request-rate is -1, must be positive"),
        (["--base-url", "http://127.0.0.1:9"], "http://127.0.0.1:9 does not answer"),
    ],
)
def test_wrong_flags_are_refused(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["bench", "serve", *flags])
    assert end.value.code == 2
    assert f"llamagen bench: {message}" in capsys.readouterr().err


@pytest.mark.parametrize("benchmark", ["engine", "serve"])
def test_help_ends_with_an_example(benchmark: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["bench", benchmark, "--help"])
    *_, heading, example = capsys.readouterr().out.splitlines()
    assert heading == "example:"
    assert example.startswith(f"  llamagen bench {benchmark} ")
