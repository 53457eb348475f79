"""Files of a study: its results, and plots of them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from llamagen_server.model_dir import ModelDir
from llamagen_server.sample.settings import describe_weights


def read_results(path: Path) -> list[dict[str, Any]]:
    """Reads results, one JSON object a line; none if the file is missing."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def weights_sha256(model: ModelDir) -> str:
    """Returns a checksum of all weights of a model."""
    return hashlib.sha256(json.dumps(describe_weights(model)).encode()).hexdigest()


def save_plot(figure: Any, path: Path) -> None:
    """Writes a matplotlib figure as SVG. The same figure makes the same file."""
    from matplotlib import rc_context

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": path.stem}):
        figure.savefig(path, metadata={"Date": None})
