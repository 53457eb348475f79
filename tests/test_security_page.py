"""docs/security.md: each claim names a test that exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path


def test_every_named_test_exists(root: Path) -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", (root / "docs" / "security.md").read_text())
    assert len(named) > 20
    missing = [
        f"{file}::{test}" for file, test in named if test not in functions(root / "tests/llamagen_server" / file)
    ]
    assert missing == []


def test_every_claim_of_a_table_names_a_test(root: Path) -> None:
    rows = [line for line in (root / "docs" / "security.md").read_text().splitlines() if line.startswith("| ")]
    claims = [row for row in rows if row != "| claim | test |"]
    assert len(claims) > 20
    assert [row for row in claims if ".py::test_" not in row] == []


def functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
