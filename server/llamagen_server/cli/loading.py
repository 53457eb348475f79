"""Loading a model in a process of our own, which may be tuned for it."""

from __future__ import annotations

import argparse
import logging
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import resource_tracker

import psutil

from llamagen_server.core.options import Limits, RestartPolicy
from llamagen_server.engine import cpu
from llamagen_server.model_dir import ModelDir
from llamagen_server.pipeline import build
from llamagen_server.pipeline.pipeline import Pipeline

logger = logging.getLogger(__name__)


def load_pipeline(
    model: ModelDir,
    flags: argparse.Namespace,
    *,
    limits: Limits = Limits(),
    vq_dtype: str = "auto",
    own_process_group: bool = False,
    restarts: RestartPolicy = RestartPolicy(),
) -> Pipeline:
    """Tunes this process and builds the pipeline; the arguments are those of `build.build_pipeline`."""
    logger.info("loading %s", model.path)
    workers = cpu.tune_process(model.num_vq_parameters) if build.stage_device().type == "cpu" else 1
    return build.build_pipeline(
        model,
        flags,
        limits=limits,
        vq_dtype=vq_dtype,
        decode_workers=workers,
        own_process_group=own_process_group,
        restarts=restarts,
    )


def interruptible(load: Callable[[], Pipeline]) -> Pipeline:
    """Loads in a thread, so that Ctrl-C ends the process at once: inside vLLM's start it could get lost."""
    with ThreadPoolExecutor(1, initializer=_hide_interrupts_from_children) as thread:
        try:
            return thread.submit(load).result()
        except KeyboardInterrupt:
            logger.info("stopped while loading")
            for child in psutil.Process().children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    child.kill()
            os._exit(130)  # the thread cannot be stopped


def _hide_interrupts_from_children() -> None:
    """Blocks SIGINT in this thread. Processes that it starts inherit that and print no traceback after a Ctrl-C."""
    resource_tracker.ensure_running()  # its start would unblock the signal again
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
