"""Files of a study: its results, and plots of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_results(path: Path) -> list[dict[str, Any]]:
    """Reads results, one JSON object a line; none if the file is missing."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def save_plot(figure: Any, path: Path) -> None:
    """Writes a matplotlib figure as SVG. The same figure makes the same file."""
    from matplotlib import rc_context

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": path.stem}):
        figure.savefig(path, metadata={"Date": None})
