"""Scenario files: what they contain, and how wrong ones are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamagen_server.bench.load import Kind, Load
from llamagen_server.bench.scenario import Scenario, read_scenario
from llamagen_server.cli import main as cli

FULL = """
description: two phases
latency_goal: 3
mix:
  - {share: 3, n: 1}
  - {share: 1, n: 4, partial_images: 2}
phases:
  - {name: warm-up, concurrency: 4, seconds: 10, warm_up: true}
  - {name: busy, rate: 0.8, seconds: 60, burstiness: 0.5}
"""


def read(folder: Path, text: str) -> Scenario:
    path = folder / "busy day.yaml"
    path.write_text(text)
    return read_scenario(path)


def test_a_scenario(tmp_path: Path) -> None:
    scenario = read(tmp_path, FULL)
    assert (scenario.name, scenario.latency_goal) == ("busy day", 3)
    assert scenario.mix == (Kind(share=3), Kind(n=4, partial_images=2))
    assert scenario.images_per_request == 7 / 4
    warm_up, busy = scenario.scaled(0.5).phases
    assert warm_up.load(20) == Load(concurrency=4, duration=5)
    assert busy.load(20) == Load(rate=16, duration=30, burstiness=0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("phases: [", "is not YAML: while parsing"),
        ("- a list", "must be a YAML mapping with description and phases"),
        ("description: x", "phases is missing"),
        ("description: x\nphases: []", "phases is []: tuple should have at least 1 item"),
        (FULL + "sped: 3", "unknown field 'sped'"),
        (FULL.replace("rate: 0.8", "rate: 0"), "phases.1.rate is 0: input should be greater than 0"),
        (FULL.replace("rate: 0.8", "burstiness: 1"), "phase 'busy' must have either rate or concurrency"),
        (FULL.replace("rate: 0.8", "rate: 0.8, concurrency: 3"), "phase 'busy' must have either rate or concurrency"),
        (FULL.replace("name: busy", "name: warm-up"), "two phases have the name 'warm-up'"),
        (FULL.replace("burstiness: 0.5", "warm_up: true"), "every phase has warm_up: nothing would be measured"),
        (FULL.replace("rate: 0.8", "concurrency: 3"), "phase 'busy' has burstiness, which needs a rate"),
        (FULL + "name: ../../x", "unknown field 'name': a scenario has the name of its file"),
        (FULL.replace("share: 3", "share: .inf"), "share is inf, must be positive and finite"),
        (FULL.replace("n: 4", "n: 0"), "n is 0, must be 1 to 10"),
        (FULL.replace("n: 4", "n: 1000"), "n is 1000, must be 1 to 10"),
        (FULL.replace("n: 4", "m: 4"), "mix.1.m is 4: unexpected keyword argument"),
        (FULL.replace("partial_images: 2", "partial_images: 99"), "partial_images is 99, must be 0 to 16"),
    ],
)
def test_wrong_files_are_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match="busy day.yaml") as error:
        read(tmp_path, text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_text_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes("description: café".encode("latin-1"))
    with pytest.raises(ValueError, match="latin.yaml is not YAML: .*codec can't decode"):
        read_scenario(tmp_path / "latin.yaml")


def test_scenarios_with_the_same_report_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / "a" / "day.yaml", tmp_path / "b" / "day.yaml"]
    with pytest.raises(SystemExit) as end:
        cli.main(["bench", "scenario", *map(str, files), "--out", str(tmp_path)])
    assert end.value.code == 2
    expected = f"llamagen bench: {files[0]} and {files[1]} would write the same report day: run one, or rename it\n"
    assert capsys.readouterr().err == expected
