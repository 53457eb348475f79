"""``llamagen bench engine``: its figures, and a run with vLLM on images of four codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llamagen_server.bench.engine import Guesses, _Run, figures, median_seconds, random_config, tokens_per_step
from llamagen_server.bench.engine_options import EngineOptions
from llamagen_server.bench.roofline import Machine
from llamagen_server.bench.step_profile import PARTS
from llamagen_server.bench.tables import engine_table


@pytest.mark.engine
def test_a_run(tmp_path: Path) -> None:
    result = tmp_path / "r.json"
    command = "-m llamagen_server bench engine --size B --image-size 32 --batch 1 2 --repeat 1 --dtype float32"
    words = [
        *command.split(),
        "--enforce-eager",
        "--baseline",
        "eager",
        "--cfg-min-p",
        "0.1",
        "--profile",
        "--save-result",
        str(result),
    ]
    run = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "| batch | seconds | images/s |" in run.stderr
    saved = json.loads(result.read_text())
    assert [row["batch"] for row in saved["rows"]] == [1, 2]
    for row in saved["rows"]:
        seconds = {name: row[name] for name in ("engine_s", "min_p_s", "eager_s")}
        assert row == figures(row["batch"], 4, seconds, row["roofline_s"])
        assert min(value for name, value in row.items() if name != "min_p_cost_percent") > 0
    assert set(saved["profile"]) == {*PARTS, "rest"}
    assert min(saved["profile"].values()) > 0  # 0: a part's functions have other names in this vLLM
    assert saved["settings"]["batch"] == [1, 2]
    assert saved["dtype"] == "float32"
    assert saved["v2_model_runner"] in (True, False)
    assert min(saved["machine"].values()) > 0


def test_tokens_per_step() -> None:
    assert tokens_per_step(Guesses(10, 5), Guesses(30, 65)) == 4
    assert tokens_per_step(Guesses(10, 5), Guesses(10, 5)) == 1


def test_figures() -> None:
    row = figures(8, 256, {"engine_s": 2.0, "eager_s": 5.0}, roofline_s=1.2)
    assert (row["images_per_s"], row["tokens_per_s"]) == (4, 1024)
    assert row["step_ms"] == 7.8125
    assert row["roofline_fraction"] == pytest.approx(0.6)
    assert row["ratio"] == 2.5
    assert "ratio" not in figures(8, 256, {"engine_s": 2.0}, roofline_s=1.2)
    row = figures(8, 256, {"engine_s": 2.0, "min_p_s": 2.05}, roofline_s=1.2)
    assert row["min_p_cost_percent"] == pytest.approx(2.5)


@pytest.mark.parametrize("rounds", [0, 1])
def test_a_baseline_without_memory_leaves_the_engines_figures(monkeypatch: pytest.MonkeyPatch, rounds: int) -> None:
    """Whether it fails at once or after a round."""

    class Baseline(torch.nn.Module):
        def __init__(self, *args: object) -> None:
            super().__init__()
            self.left = rounds

        def generate(self, *args: object) -> None:
            if not self.left:
                raise torch.OutOfMemoryError("CUDA out of memory")
            self.left -= 1

    monkeypatch.setattr("llamagen_server.bench.engine.EagerGPT", Baseline)
    monkeypatch.setattr(_Run, "engine", lambda self, batch: lambda: None)
    options = EngineOptions(image_size=32, baseline="eager")
    run = _Run(options, random_config(options), None, [], torch.float32, Machine(1e9, 1e9))  # type: ignore[arg-type]
    row = run.measure(2)
    assert row["engine_s"] > 0
    assert (row["eager_s"], row["ratio"]) == (None, None)
    assert engine_table([row]).endswith("| out of memory | out of memory |")


def test_work_takes_turns_and_the_first_round_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now, calls = 0.0, []
    durations = {"engine_s": iter([9.0, 1.0, 3.0, 2.0]), "eager_s": iter([9.0, 4.0, 4.0, 5.0])}
    monkeypatch.setattr("llamagen_server.bench.engine.time.perf_counter", lambda: now)

    def once(name: str) -> None:
        nonlocal now
        now += next(durations[name])
        calls.append(name)

    work = {"engine_s": lambda: once("engine_s"), "eager_s": lambda: once("eager_s")}
    assert median_seconds(work, repeat=3) == {"engine_s": 2.0, "eager_s": 4.0}
    assert calls == ["engine_s", "eager_s"] * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "A"}, "--size is A, must be one of B, L"),
        ({"batch": (1, 0)}, "--batch is 0, must be at least 1"),
        ({"cfg_min_p": 2.0}, "--cfg-min-p is 2.0, must be from 0 to 1"),
        ({"cfg_min_p": 0.1, "decode_window": 8}, "--cfg-min-p cannot be timed with --decode-window"),
        ({"cfg_min_p": 0.1, "cfg_scale": 1.0}, "--cfg-min-p needs guidance: --cfg-scale is 1"),
        ({"repeat": 0}, "--repeat is 0, must be at least 1"),
        ({"image_size": 20}, "--image-size is 20, must be a multiple of 16"),
        ({"baseline": "compiled"}, "--baseline is compiled, must be eager"),
        ({"decode_window": 65}, "--decode-window is 65, must be from 0 to 64"),
        ({"model": Path("m"), "baseline": "eager"}, "--baseline needs --size"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EngineOptions(**options)  # type: ignore[arg-type]
