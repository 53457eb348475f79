"""Every page in Markdown: links lead somewhere, and documented targets of make exist."""

from __future__ import annotations

import re
from pathlib import Path

LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[\w-]*)?\)")
"""A relative link; addresses have a colon."""
MAKE = re.compile(r"^(?: {4})?make ([a-z][\w-]*)|`make ([a-z][\w-]*)", re.M)
"""A command on a line of its own, or in backticks."""


def pages(root: Path) -> list[Path]:
    folders = (".github", "demo", "deploy", "docs", "examples", "tests")
    found = [*root.glob("*.md"), *(page for folder in folders for page in (root / folder).rglob("*.md"))]
    assert len(found) > 15
    return found


def test_relative_links_lead_to_files(root: Path) -> None:
    links = [(page, link) for page in pages(root) for link in LINK.findall(page.read_text())]
    assert len(links) > 40
    broken = [f"{page.relative_to(root)}: {link}" for page, link in links if not (page.parent / link).exists()]
    assert broken == []


def test_documented_targets_of_make_exist(root: Path) -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (root / "Makefile").read_text(), re.M))
    named = {a or b for page in pages(root) for a, b in MAKE.findall(page.read_text())}
    assert len(named) >= 6
    assert named - targets == set()
