"""The guidance of the engine's images, in the metrics of this process.

The engine counts in its own process, where the branches are mixed; here its counts are polled. A new engine counts from
0 again, so what is added to the metrics is the difference to the last answer of the same engine.
"""

from __future__ import annotations

import asyncio
import logging

from llamagen_server.core import metrics
from llamagen_server.core.errors import EngineError
from llamagen_server.engine.interface import Engine
from vllm_llamagen.guidance_counts import GuidanceCounts

logger = logging.getLogger(__name__)

POLL_SECONDS = 2.0
"""Seconds between two polls, and the longest time that one may take: an engine that hangs does not answer."""


class GuidanceWatch:
    """Adds to the metrics what an engine has counted since the last poll."""

    def __init__(self) -> None:
        self._last = GuidanceCounts()

    async def begin(self, engine: Engine) -> None:
        """Leaves out what the engine has counted so far."""
        self._last = await _ask(engine) or self._last

    async def poll(self, engine: Engine) -> None:
        """Asks the engine once. If it does not answer, the metrics stay as they are."""
        counts = await _ask(engine)
        if counts is None:
            return
        last = self._last if self._last.process == counts.process else GuidanceCounts()
        self._last = counts
        metrics.GUIDED.labels("2").inc(counts.guided - last.guided)
        metrics.GUIDED.labels("1").inc(counts.conditional - last.conditional)
        metrics.UNGUIDED.inc(counts.unguided - last.unguided)


async def _ask(engine: Engine) -> GuidanceCounts | None:
    try:
        async with asyncio.timeout(POLL_SECONDS):
            return await engine.guidance_counts()
    except (EngineError, TimeoutError) as error:
        logger.debug("the guidance of the engine's images is unknown: %r", error)
        return None


async def watch_guidance(engine: Engine, watch: GuidanceWatch) -> None:
    """Polls the engine until it is cancelled."""
    while True:
        await watch.poll(engine)
        await asyncio.sleep(POLL_SECONDS)
