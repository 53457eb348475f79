"""Planning: measured and estimated curves, the table's arithmetic, the command."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import pytest

from llamagen_server.bench.capacity import Goal, Source, devices, latency_rows, plan_row, read_result
from llamagen_server.bench.queueing import ServiceCurve, predict
from llamagen_server.cli import main as cli

DEMO = ServiceCurve(((1, 3.23), (4, 9.94), (16, 16.4), (64, 17.4)), 256)
SERVE = {
    "settings": {"max_concurrency": [1, 4, 16, 64], "n": 1},
    "rows": [{"images_per_s": rate} for rate in (3.23, 9.94, 16.4, 17.4)],
}
ENGINE = {"settings": {"batch": [1, 8]}, "rows": [{"images_per_s": 0.158}, {"images_per_s": 0.831}]}


def write(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_results_are_curves(tmp_path: Path) -> None:
    assert read_result(write(tmp_path / "serve.json", SERVE), 256) == Source("serve", DEMO)
    assert read_result(write(tmp_path / "e.json", ENGINE), 256).curve == ServiceCurve(((1, 0.158), (8, 0.831)), 8)
    double = {**SERVE, "settings": {"max_concurrency": [1, 4, 16, 64], "n": 2}}
    assert read_result(write(tmp_path / "n.json", double), 256).curve.points[-1] == (128, 17.4)


@pytest.mark.parametrize(
    "content",
    [
        [],
        {},
        {"rows": []},
        {**SERVE, "rows": []},
        {**SERVE, "settings": {"max_concurrency": None, "n": 1}},
        {"settings": {"max_concurrency": [], "n": 1}, "rows": []},
        *(
            {**ENGINE, "rows": [{"images_per_s": rate}, {"images_per_s": 1}]}
            for rate in ("fast", 0, math.nan, math.inf)
        ),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: object) -> None:
    path = write(tmp_path / "x.json", content)
    with pytest.raises(ValueError, match="x.json must be a file that --save-result of `llamagen bench serve"):
        read_result(path, 256)


def test_a_plan_keeps_the_goal() -> None:
    row = plan_row(Source("demo", DEMO), [10, 1000], Goal(latency=4))
    rate, limit = row["planned, images/s"], row["p99 goal, s"]
    assert limit == pytest.approx(4 / 3.23)
    assert predict(DEMO, rate).p99 <= limit < predict(DEMO, rate + 0.05).p99
    assert row["utilisation"] == f"{rate / 17.4:.0%}"
    assert [row["devices for 10/s"], row["devices for 1000/s"]] == [math.ceil(10 / rate), math.ceil(1000 / rate)]


def test_a_plan_leaves_headroom() -> None:
    row = plan_row(Source("demo", DEMO), [100], Goal(latency_s=1000, utilisation=0.5))
    assert (row["planned, images/s"], row["p99 goal, s"]) == (pytest.approx(8.7), 1000)
    assert row["devices for 100/s"] == 12


@pytest.mark.parametrize(
    ("target", "rate", "expected"), [(10, 2.5, 4), (10, 2.4, 5), (3, 0.1 + 0.2, 10), (0.1, 50, 1), (10, 0, "–")]
)
def test_devices(target: float, rate: float, expected: int | str) -> None:
    assert devices(target, rate) == expected


def test_more_load_and_tighter_goals_need_more_devices() -> None:
    source = Source("demo", DEMO)
    by_goal = [plan_row(source, [500], Goal(latency=goal))["devices for 500/s"] for goal in (6, 4, 3, 2)]
    assert by_goal == sorted(by_goal)
    by_target = list(plan_row(source, [1, 10, 100, 1000, 10000], Goal()).values())[-5:]
    assert by_target == sorted(by_target)
    assert by_target[-1] > by_target[0]


def test_latency_rows_have_model_and_simulation() -> None:
    rows = latency_rows(DEMO)
    assert [row["utilisation"] for row in rows] == ["30%", "50%", "60%", "70%", "80%", "90%"]
    for row in rows[:4]:
        assert row["mean, s"] == pytest.approx(row["simulated mean, s"], rel=0.1)


def test_the_command(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    result = write(tmp_path / "serve.json", SERVE)
    with caplog.at_level(logging.INFO, "llamagen_server"):
        cli.main(["bench", "capacity", "--result", str(result), "--size", "B", "--target-rate", "100", "--latency"])
    lines = caplog.text.splitlines()
    assert any(line.startswith("| serve |  | 17.4 |") for line in lines)
    assert any(line.startswith("| B on h100 (estimate) |") for line in lines)
    assert sum(line.startswith("| 70% |") for line in lines) == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "nothing to plan with: give --result (measured) or --size (estimated)"),
        (["--size", "B", "--target-rate", "0"], "--target-rate is 0, must be positive"),
        (["--size", "B", "--target-rate", "10", "inf"], "--target-rate is inf, must be positive and finite"),
        (["--size", "B", "--goodput", "e2el:0"], "--goodput is 'e2el:0', must be e2el and milliseconds"),
        (["--size", "B", "--latency-goal", "inf"], "--latency-goal is inf, must be positive and finite"),
        (["--size", "B", "--latency-goal", "0"], "--latency-goal is 0, must be positive"),
        (["--size", "B", "--max-num-seqs", "-1"], "--max-num-seqs is -1, must be positive"),
        (["--size", "B", "--max-utilisation", "1"], "--max-utilisation is 1, must be below 1"),
        (["--size", "B", "--goodput", "fast"], "--goodput is 'fast', must be e2el and milliseconds"),
        (["--size", "B", "--image-size", "100"], "--image-size is 100, must be a multiple of 16"),
    ],
)
def test_wrong_flags_are_refused(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["bench", "capacity", *flags])
    assert end.value.code == 2
    assert message in capsys.readouterr().err
