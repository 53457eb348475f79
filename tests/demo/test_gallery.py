"""The playground's examples: their files come from a server's images, and tell how to make each picture again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.helpers.app_on_a_port import serve
from tests.llamagen_server.playground.stand_in_server import SIZE, Scenario, make_app, render

from demo import gallery


@pytest.mark.parametrize(("kind", "count", "columns"), [("text", 12, 4), ("class", 64, 8)])
def test_each_picture_of_the_sheet_is_that_of_its_recipe(
    kind: str, count: int, columns: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery, "PLAYGROUND", tmp_path)
    with serve(make_app(Scenario())) as url:
        gallery.write_examples(url, kind)
    examples = json.loads((tmp_path / f"examples_{kind}.json").read_text())
    assert (len(examples["recipes"]), examples["columns"]) == (count, columns)
    with Image.open(tmp_path / f"examples_{kind}.webp") as file:
        sheet = file.convert("RGB")
    assert sheet.size == (columns * SIZE, count // columns * SIZE)
    for i in (0, 1, columns, count - 1):
        x, y = i % columns * SIZE, i // columns * SIZE
        shown = np.asarray(sheet.crop((x, y, x + SIZE, y + SIZE)), dtype=float)
        recipe = examples["recipes"][i]
        assert abs(shown - np.asarray(render(recipe, recipe["seed"]))).mean() < 8


def test_a_sheet_for_the_docs_has_a_block_for_each_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    scenario = Scenario()
    with serve(make_app(scenario)) as url:
        gallery.write_sheet(url, "text")
    with Image.open(tmp_path / "docs/demo_text.webp") as sheet:
        assert sheet.size == (8 * SIZE, 3 * (2 * SIZE + 28))
    assert {request["cfg_scale"] for request in scenario.requests} == {1, 4, 7.5}
    assert {request["seed"] for request in scenario.requests} == set(range(16))
