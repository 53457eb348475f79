"""Loading a model in a process of our own, which may be tuned for it."""

from __future__ import annotations

import argparse
import logging

from llamagen_server.engine import cpu
from llamagen_server.model_dir import ModelDir
from llamagen_server.pipeline import build
from llamagen_server.pipeline.pipeline import Pipeline

logger = logging.getLogger(__name__)


def load_pipeline(model: ModelDir, flags: argparse.Namespace, **options: object) -> Pipeline:
    """Tunes this process and builds the pipeline; ``options`` are those of `build.build_pipeline`."""
    logger.info("loading %s", model.path)
    workers = cpu.tune_process(model.num_vq_parameters) if build.stage_device().type == "cpu" else 1
    return build.build_pipeline(model, flags, decode_workers=workers, **options)  # type: ignore[arg-type]
