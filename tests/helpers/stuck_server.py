"""``llamagen serve`` whose engine is a `FakeEngine` that never finishes an image: ``python -m ... MODEL [options]``.

It starts in seconds, so signals, keys and TLS are tested on a real process without vLLM's engine.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tests.helpers.app import make_app

from llamagen_server.cli import loading, main
from llamagen_server.model_dir import ModelDir
from llamagen_server.pipeline.pipeline import Pipeline


def load_pipeline(model: ModelDir, flags: Any, **options: Any) -> Pipeline:
    """Stands in for `llamagen_server.cli.loading.load_pipeline`."""
    pipeline: Pipeline = make_app(Path(model.path)).state.pipeline
    pipeline.engine.go_on.clear()  # type: ignore[attr-defined]
    return pipeline


if __name__ == "__main__":
    loading.load_pipeline = load_pipeline
    main.main(["serve", *sys.argv[1:]])
