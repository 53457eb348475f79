"""Samples the missing images of a set with the engine full, and stores each as soon as it is finished."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from tqdm import tqdm

from llamagen_server.core.results import GeneratedImage
from llamagen_server.engine import cpu
from llamagen_server.pipeline.pipeline import Pipeline, together
from llamagen_server.sample.outputs import Output
from llamagen_server.sample.plan import SamplePlan

logger = logging.getLogger(__name__)

LOG_EVERY = 60.0
"""Seconds between two lines about the progress, where there is no terminal for a bar."""


async def sample(pipeline: Pipeline, plan: SamplePlan, indices: range, outputs: Sequence[Output]) -> None:
    """Samples the images of a plan that an output lacks.

    Args:
        indices: the images to consider.

    Raises:
        InvalidRequestError: an image does not fit the model.
        EngineError: the engine failed.
        OSError: an image cannot be stored.
    """
    missing = [index for index in indices if not all(output.has(index) for output in outputs)]
    logger.info("%d of %d images are there, %d to sample", len(indices) - len(missing), len(indices), len(missing))
    waiting = iter(missing)
    with (
        ThreadPoolExecutor(cpu.cores(), thread_name_prefix="store") as storing,
        Progress(len(indices), len(missing)) as progress,
    ):
        work = (_sample_each(pipeline, plan, waiting, outputs, storing, progress) for _ in _places(pipeline, missing))
        await together(work)


def _places(pipeline: Pipeline, missing: Sequence[int]) -> range:
    """Enough to keep the engine full while finished images are decoded and stored."""
    return range(min(2 * pipeline.engine.max_num_seqs, len(missing)))


async def _sample_each(
    pipeline: Pipeline,
    plan: SamplePlan,
    waiting: Iterator[int],
    outputs: Sequence[Output],
    storing: ThreadPoolExecutor,
    progress: Progress,
) -> None:
    for index in waiting:
        result = await pipeline.generate(plan.request(index), f"sample-{index}")
        [image] = result.images
        await asyncio.get_running_loop().run_in_executor(storing, _store, outputs, index, image)
        progress.advance()


def _store(outputs: Sequence[Output], index: int, image: GeneratedImage) -> None:
    for output in outputs:
        if not output.has(index):
            output.write(index, image.pixels, image.codes)


class Progress:
    """A bar on a terminal; elsewhere a line now and then. Both have the rate and the time left."""

    def __init__(self, count: int, missing: int) -> None:
        self._count, self._missing, self._done = count, missing, 0
        self._start = self._logged = time.monotonic()
        self._bar = tqdm(
            total=count, initial=count - missing, desc="sample", unit="image", disable=None, dynamic_ncols=True
        )

    def advance(self) -> None:
        """Counts an image."""
        self._done += 1
        self._bar.update()
        now = time.monotonic()
        if self._bar.disable and (now - self._logged >= LOG_EVERY or self._done == self._missing):
            self._logged = now
            left = self._missing - self._done
            rate = self._done / (now - self._start)
            logger.info(
                "%d of %d images, %.3g images/s, %s left", self._count - left, self._count, rate, _duration(left / rate)
            )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
