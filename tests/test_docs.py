"""The examples of README.md and docs/http.md run against the embedded demo model."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

pytestmark = pytest.mark.engine

LOCAL = "http://127.0.0.1:8000"


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.M | re.S)


@pytest.mark.parametrize("page", ["README.md", "docs/http.md"])
def test_shell_examples(root: Path, page: str, demo_url: str, tmp_path: Path) -> None:
    Image.new("RGB", (128, 128)).save(tmp_path / "image.png")
    commands = [
        command
        for block in blocks(root / page, "sh")
        for command in re.split(r"\n(?=curl)", block.strip())
        if command.startswith("curl")
    ]
    assert commands
    for command in commands:
        run = subprocess.run(
            ["bash", "-c", command.replace("curl ", "curl -sS --fail-with-body ", 1).replace(LOCAL, demo_url)],
            cwd=tmp_path,
            capture_output=True,
            timeout=120,
            check=False,
        )
        assert run.returncode == 0, (command, run.stdout[:500], run.stderr)
        if output := re.search(r"-o (\S+)", command):
            with Image.open(tmp_path / output[1]) as image:
                assert (image.format, image.size) == (Path(output[1]).suffix[1:].upper(), (128, 128))


@pytest.mark.parametrize("page", ["README.md", "docs/http.md"])
def test_python_examples(root: Path, page: str, demo_url: str, tmp_path: Path) -> None:
    examples = blocks(root / page, "python")
    assert examples
    code = "\n".join(examples).replace(LOCAL, demo_url)
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr


def test_offline_example_of_the_readme(root: Path, tmp_path: Path) -> None:
    """It runs as a script of its own: the engine's processes import it."""
    [code] = blocks(root / "README.md", "py")
    assert "ImageEngine()" in code
    code = code.replace("ImageEngine()", "ImageEngine(enforce_eager=True)")  # compiling takes half a minute
    (tmp_path / "offline.py").write_text(code)
    run = subprocess.run(
        [sys.executable, "offline.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "(128, 128, 3)" in run.stdout
