"""Waiting for a condition in another process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 120) -> None:
    """Asks again and again until ``condition`` is true.

    Raises:
        TimeoutError: it is not true after ``seconds`` seconds.
    """
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - another process has no event to wait for
            await asyncio.sleep(0.05)
