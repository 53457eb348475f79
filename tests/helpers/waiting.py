"""Waiting for a condition in another process, or for its end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import psutil


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 120) -> None:
    """Asks again and again until ``condition`` is true.

    Raises:
        TimeoutError: it is not true after ``seconds`` seconds.
    """
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - another process has no event to wait for
            await asyncio.sleep(0.05)


def has_ended(pid: int) -> bool:
    """Whether no process has this id, or a dead one whose parent has not asked for its exit status."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
