"""The load test's arithmetic, and a run of it against the app with a fake engine."""

from __future__ import annotations

import argparse
import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from tests.llamagen_server.api.conftest import make_app

from llamagen_server.bench import http as serve
from llamagen_server.bench.http import Outcome, summary


@pytest.fixture
def url(class_model_dir: Path) -> Iterator[str]:
    app = make_app(class_model_dir)
    server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="off", log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        threading.Event().wait(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    return parser.parse_args(words)


@pytest.mark.parametrize("flags", [["--max-concurrency", "1", "4"], ["--request-rate", "200", "--partial-images", "2"]])
def test_a_run(url: str, flags: list[str], tmp_path: Path) -> None:
    result = tmp_path / "r.json"
    words = ["--num-prompts", "12", "--num-warmups", "1", "--n", "2", "--goodput", "e2el:60000", *flags]
    serve.run(parse("--base-url", url, "--save-result", str(result), *words))
    rows = json.loads(result.read_text())["rows"]
    assert len(rows) == (2 if "4" in flags else 1)
    for row in rows:
        assert (row["requests"], row["error_rate"]) == (12, 0)
        assert (
            row["images_per_s"] == pytest.approx(2 * row["requests_per_s"]) == pytest.approx(2 * row["goodput_per_s"])
        )
        assert 0 < row["e2el_p50_ms"] <= row["e2el_p99_ms"]
        assert ("ttfp_p50_ms" in row) == ("--partial-images" in flags)


def test_summary() -> None:
    outcomes = [Outcome(pictures=1, times={"e2el": float(ms)}) for ms in range(1, 101)] + [Outcome(error="boom")]
    row = summary(outcomes, 10.0, ["e2el"], [50, 99], 20)
    assert (row["e2el_p50_ms"], row["e2el_p99_ms"]) == (50, 99)
    assert (row["requests_per_s"], row["goodput_per_s"]) == (10, 2)
    assert row["error_rate"] == pytest.approx(1 / 101)
    assert row["first_error"] == "boom"


def test_arrivals_keep_their_rate() -> None:
    times: list[float] = []

    class Recorder(serve._Run):
        async def request(self, i: int) -> Outcome:
            times.append(asyncio.get_running_loop().time())
            return Outcome()

    args = parse("--num-prompts", "400", "--burstiness", "1")
    asyncio.run(Recorder(args, None, []).all(serve.Load(rate=1000)))  # type: ignore[arg-type]
    assert (times[-1] - times[0]) == pytest.approx(0.4, rel=0.3)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--percentile-metrics", "ttft"], "--percentile-metrics has 'ttft', must be of e2el, ttfp"),
        (["--goodput", "ttft:3"], "--goodput such as e2el:2000"),
        (["--request-rate", "-1"], "must be positive"),
        (["--base-url", "http://127.0.0.1:9"], "does not answer"),
    ],
)
def test_bad_flags(flags: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        serve.run(parse(*flags))


def test_figures_of_the_servers_metrics() -> None:
    name = "llamagen_event_loop_lag_seconds"
    before = {(f"{name}_bucket", bound): 10.0 for bound in ("0.01", "0.1", "+Inf")}
    after = {(f"{name}_bucket", "0.01"): 108.0, (f"{name}_bucket", "0.1"): 110.0, (f"{name}_bucket", "+Inf"): 110.0}
    assert serve._quantile(before, after, name, 0.9) == 0.01
    assert serve._quantile(before, after, name, 0.99) == 0.1
    assert serve._quantile(before, before, name, 0.99) == 0
    late = after | {(f"{name}_bucket", "+Inf"): 500.0}
    assert serve._quantile(before, late, name, 0.99) == 0.1
    totals = [{(f"{name}_sum", ""): total, (f"{name}_count", ""): count} for total, count in ((1.0, 2.0), (4.0, 4.0))]
    assert serve._mean(*totals, name) == 1.5
    assert serve._mean({}, {}, name) == 0
