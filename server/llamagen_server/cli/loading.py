"""Loading a model in a process of our own, which may be tuned for it."""

from __future__ import annotations

import argparse
import logging

from llamagen_server.core.options import MAX_IN_FLIGHT
from llamagen_server.engine import cpu
from llamagen_server.model_dir import ModelDir
from llamagen_server.pipeline import build
from llamagen_server.pipeline.pipeline import Pipeline

logger = logging.getLogger(__name__)


def load_pipeline(
    model: ModelDir,
    flags: argparse.Namespace,
    *,
    max_in_flight: int = MAX_IN_FLIGHT,
    vq_dtype: str = "auto",
    own_process_group: bool = False,
) -> Pipeline:
    """Tunes this process and builds the pipeline; the arguments are those of `build.build_pipeline`."""
    logger.info("loading %s", model.path)
    workers = cpu.tune_process(model.num_vq_parameters) if build.stage_device().type == "cpu" else 1
    return build.build_pipeline(
        model,
        flags,
        max_in_flight=max_in_flight,
        vq_dtype=vq_dtype,
        decode_workers=workers,
        own_process_group=own_process_group,
    )
