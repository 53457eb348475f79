"""The npm packages that check the playground's files, and the make target that installs them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path


def test_versions_are_exact_and_without_addresses(root: Path) -> None:
    text = (root / "package.json").read_text()
    versions = json.loads(text)["devDependencies"]
    assert versions
    assert [name for name, version in versions.items() if not re.fullmatch(r"\d+\.\d+\.\d+", version)] == []
    assert "://" not in text
    assert not (root / "package-lock.json").exists()


def test_make_reports_missing_npm_in_one_line(root: Path, tmp_path: Path) -> None:
    make = shutil.which("make")
    assert make
    done = subprocess.run(
        [make, "--no-print-directory", "node"],
        cwd=root, env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    first, *others = done.stderr.splitlines()
    assert first == "npm is missing: install Node.js 18 or newer with npm (apt install nodejs npm)"
    assert [line for line in others if not line.startswith("make")] == []  # make adds its own error line
