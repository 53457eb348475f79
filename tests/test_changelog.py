"""CHANGELOG.md and CONTRIBUTING.md agree with the code."""

from __future__ import annotations

import re
from pathlib import Path

import llamagen_server


def test_the_newest_version_is_the_packages(root: Path) -> None:
    headings = re.findall(r"^## (.+)$", (root / "CHANGELOG.md").read_text(), re.M)
    assert headings[0] == "[Unreleased]"
    released = [re.fullmatch(r"\[(\d+)\.(\d+)\.(\d+)\] - \d{4}-\d\d-\d\d", heading) for heading in headings[1:]]
    assert all(released), headings
    versions = [tuple(map(int, match.groups())) for match in released if match]
    assert ".".join(map(str, versions[0])) == llamagen_server.__version__
    assert versions == sorted(versions, reverse=True)


def test_every_section_has_a_known_kind(root: Path) -> None:
    kinds = set(re.findall(r"^### (.+)$", (root / "CHANGELOG.md").read_text(), re.M))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


PATH = re.compile(r"`((?:[\w.-]+/)+[\w.-]*|[\w-]+\.(?:md|toml|py|js))`")
"""A path in backticks: it has a slash, or it is a file."""


def test_every_path_of_the_contributing_guide_exists(root: Path) -> None:
    """So that the map of the code follows the code."""
    bases = [root, root / "server" / "llamagen_server", root / "vllm_plugin", root / "tokenizer"]
    paths = set(PATH.findall((root / "CONTRIBUTING.md").read_text()))
    assert len(paths) > 80
    assert [path for path in sorted(paths) if not any((base / path).exists() for base in bases)] == []
