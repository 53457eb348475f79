"""Scenario files: what they contain, and how wrong ones are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamagen_server.bench.load import Kind, Load
from llamagen_server.bench.scenario import Scenario, read_scenario

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
        (FULL.replace("n: 4", "n: 0"), "n is 0, must be positive"),
        (FULL.replace("n: 4", "m: 4"), "mix.1.m is 4: unexpected keyword argument"),
        (FULL.replace("partial_images: 2", "partial_images: 99"), "partial_images is 99, must be 0 to 16"),
    ],
)
def test_wrong_files_are_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match="busy day.yaml") as error:
        read(tmp_path, text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
