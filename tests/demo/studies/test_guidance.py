"""The study of guidance: a small run with an engine that renders scenes, resumed, and its figures."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from demo.shapes.scenes import render, sample_scene

from demo.studies import guidance
from llamagen_server import ImageRequest

FOREIGN = {"weights": "of another model", "images": 3}


class RenderingEngine:
    """Renders a scene for each request, by its seed and scale."""

    requests: list[ImageRequest] = []  # noqa: RUF012

    def __init__(self, *_: object, **__: object) -> None: ...

    def __enter__(self) -> RenderingEngine:
        return self

    def __exit__(self, *_: object) -> None: ...

    def generate_batch(self, requests: Sequence[ImageRequest]) -> list[SimpleNamespace]:
        self.requests.extend(requests)
        pixels = [render(sample_scene(random.Random(f"{r.seed} {r.cfg_scale}"))) for r in requests]
        return [SimpleNamespace(images=[SimpleNamespace(pixels=image)]) for image in pixels]


def test_a_small_study_is_resumed_and_plotted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(guidance, "ImageEngine", RenderingEngine)
    monkeypatch.setattr(RenderingEngine, "requests", [])
    monkeypatch.setattr("sys.argv", ["guidance", "--quick", "--out", str(tmp_path)])
    guidance.main()
    results = tmp_path / "guidance-text.jsonl"
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    assert len(lines) == 2 + 2 * len(guidance.FAMILIES["cfg_min_p"])
    assert len(RenderingEngine.requests) == len(lines) * 4 * 2
    first, plain = RenderingEngine.requests[0], lines[0]
    assert (first.seed, first.cfg_scale, first.cfg_min_p, first.temperature) == (0, 1, 0, 1)
    assert plain["family"] == "plain"
    assert 0 <= plain["all"] < 0.5
    assert plain["different"] == 1
    assert 0 <= plain["error"] < 0.3
    results.write_text("".join(json.dumps(line) + "\n" for line in lines[:-1]))
    RenderingEngine.requests.clear()
    guidance.main()
    assert len(RenderingEngine.requests) == 4 * 2, "finished settings are not repeated"
    assert [json.loads(line) for line in results.read_text().splitlines()] == lines
    foreign = [json.dumps({**line, name: value, "all": 9}) for line in lines for name, value in FOREIGN.items()]
    results.write_text("\n".join([*foreign, *map(json.dumps, lines)]) + "\n")
    RenderingEngine.requests.clear()
    guidance.main()
    assert not RenderingEngine.requests
    assert results.with_suffix(".svg").stat().st_size > 10_000
    printed = capsys.readouterr().out
    assert "| plain guidance |" in printed
    assert "9.000" not in printed, "results of other weights or of fewer images"


def test_every_setting_is_measured_once() -> None:
    settings = [json.dumps({**s, "family": ""}, sort_keys=True) for s in guidance.settings(quick=False)]
    assert len(settings) == len(set(settings)) == 69


def test_the_front_has_what_no_setting_surpasses() -> None:
    points = [(0.2, 0.9), (0.5, 0.9), (0.7, 0.8), (0.6, 0.7), (0.9, 0.1)]
    results = [{"variety": variety, "all": right} for variety, right in points]
    assert guidance.pareto_front(results) == [(0.9, 0.1), (0.7, 0.8), (0.5, 0.9)]
