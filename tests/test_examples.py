"""Every file of examples/ runs, and its images are what it promises."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests.helpers.image_files import read_b64

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SIDE = 128
"""Pixels per side of the demo model's images."""


def pixels(image: Image.Image) -> NDArray[np.int16]:
    """Pixels of an image [128, 128, 3] that has several colours; signed, for differences."""
    assert image.size == (SIDE, SIDE)
    values = np.asarray(image.convert("RGB"), dtype=np.int16)
    assert len(np.unique(values.reshape(-1, 3), axis=0)) > 1
    return values


def read(file: Path) -> NDArray[np.int16]:
    with Image.open(file) as image:
        assert image.format == "PNG"
        return pixels(image)


def files(out: Path) -> set[str]:
    return {file.name for file in out.iterdir()}


def check_client(out: Path) -> None:
    assert files(out) == {"image-0.png", "image-1.png"}
    assert not np.array_equal(read(out / "image-0.png"), read(out / "image-1.png"))


def check_edit(out: Path) -> None:
    assert files(out) == {"original.png", "mask.png", "edited.png"}
    original, edited = read(out / "original.png"), read(out / "edited.png")
    assert np.array_equal(edited[: SIDE // 2], original[: SIDE // 2])
    assert not np.array_equal(edited[SIDE // 2 :], original[SIDE // 2 :])


def check_streaming(out: Path) -> None:
    previews = [f"preview-{i}.png" for i in range(3)]
    assert files(out) == {*previews, "image.png"}
    final = read(out / "image.png")
    distances = [np.abs(read(out / name) - final).mean() for name in previews]
    assert distances[0] > distances[1] > distances[2]


def check_offline(out: Path) -> None:
    assert files(out) == {f"image-{i}.png" for i in range(3)}
    images = [read(out / f"image-{i}.png") for i in range(3)]
    assert not np.array_equal(images[0], images[1])
    assert not np.array_equal(images[1], images[2])


def check_curl(out: Path) -> None:
    assert files(out) == {"models.json", "image.png", "codes.json", "edited.json", "events.txt"}
    [model] = json.loads((out / "models.json").read_text())["data"]
    assert model["image_size"] == SIDE
    [image] = json.loads((out / "codes.json").read_text())["images"]
    assert len(image["codes"]) == len(image["logprobs"]) == model["grid_size"] ** 2
    [edited] = json.loads((out / "edited.json").read_text())["data"]
    kept = 4 * SIDE // model["grid_size"]
    assert np.array_equal(pixels(read_b64(edited["b64_json"]))[:kept], read(out / "image.png")[:kept])
    events = [json.loads(line[6:]) for line in (out / "events.txt").read_text().splitlines() if line[:6] == "data: "]
    assert [event["type"] for event in events] == ["partial_image"] * 4 + ["completed", "done"]
    pixels(read_b64(events[-2]["b64_json"]))


def check_batch(out: Path) -> None:
    """``out`` has the images of the replies, as the script of docs/batch.md writes them."""
    replies = [json.loads(line) for line in (out / "replies.jsonl").read_text().splitlines()]
    requests = [json.loads(line) for line in (EXAMPLES / "batch.jsonl").read_text().splitlines()]
    ids = [request["custom_id"] for request in requests]
    assert sorted(reply["custom_id"] for reply in replies) == sorted(ids)
    assert {reply["response"]["status_code"] for reply in replies} == {200}
    names = {f"{custom_id}-0.png" for custom_id in ids} - {"webp-0.png", "codes-0.png"} | {"two-images-1.png"}
    assert files(out) == {"replies.jsonl", "webp-0.webp", *names}
    assert len({read(out / name).tobytes() for name in names}) == len(names)


CHECKS: dict[str, Callable[[Path], None]] = {
    "batch.jsonl": check_batch,
    "client.py": check_client,
    "curl.sh": check_curl,
    "edit.py": check_edit,
    "offline.py": check_offline,
    "streaming.py": check_streaming,
}
"""File of examples/ -> check of what it wrote."""


def run(example: str, *arguments: str, cwd: Path) -> None:
    program = "bash" if example.endswith(".sh") else sys.executable
    done = subprocess.run(
        [program, str(EXAMPLES / example), *arguments],
        cwd=cwd, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_every_example_has_a_check_and_a_line_in_the_readme() -> None:
    names = sorted(file.name for file in EXAMPLES.iterdir() if file.suffix in (".jsonl", ".py", ".sh"))
    assert names == sorted(CHECKS)
    assert files(EXAMPLES) - {"__pycache__"} == {*names, "README.md", "grpo"}
    readme = (EXAMPLES / "README.md").read_text()
    assert [name for name in names if f"| `{name}` |" not in readme] == []


@pytest.mark.engine
@pytest.mark.parametrize("example", sorted(CHECKS.keys() - {"batch.jsonl", "offline.py"}))
def test_an_example_against_a_server(example: str, demo_url: str, tmp_path: Path) -> None:
    run(example, "out", demo_url, cwd=tmp_path)
    CHECKS[example](tmp_path / "out")


@pytest.mark.engine
@pytest.mark.long  # that of the README is much the same, see test_docs.py
def test_the_offline_example(tmp_path: Path) -> None:
    run("offline.py", "out", cwd=tmp_path)
    CHECKS["offline.py"](tmp_path / "out")


@pytest.mark.engine
def test_the_trainer(root: Path, tmp_path: Path) -> None:
    """A step of reinforcement learning, measured before and after, and its plot."""
    small = ["--steps", "1", "--prompts", "2", "--group", "4", "--eval-captions", "4", "--enforce-eager"]
    for words in (["examples.grpo.train", "--out", str(tmp_path), *small], ["examples.grpo.plot", str(tmp_path)]):
        command = [sys.executable, "-m", *words]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=400, check=False)
        assert done.returncode == 0, done.stderr
    before, step, after = json.loads((tmp_path / "seed0.json").read_text())
    assert 0 < step["reward"] < 1
    assert step["weights_version"] == 2
    assert 0 < before["held_out"] < 1
    assert 0 < after["held_out"] < 1
    with Image.open(tmp_path / "reward.png") as plot:
        assert plot.size[0] > 500


@pytest.mark.engine
def test_the_batch_example(root: Path, tmp_path: Path) -> None:
    """The command and the script of docs/batch.md."""
    page = (root / "docs" / "batch.md").read_text()
    [command] = re.findall(r"^```sh\n(llamagen run-batch .*)\n```", page, re.M)
    [script] = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    command = command.replace("examples/batch.jsonl", str(EXAMPLES / "batch.jsonl"))
    words = [sys.executable, "-m", "llamagen_server", *command.split()[1:], "--enforce-eager"]
    for program in (words, [sys.executable, "-c", script]):
        done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, timeout=400, check=False)
        assert done.returncode == 0, done.stderr
    CHECKS["batch.jsonl"](tmp_path)
