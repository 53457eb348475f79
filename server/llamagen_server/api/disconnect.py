"""Cancelling the work of a request whose client disconnects."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request

T = TypeVar("T")


class ClientDisconnectedError(Exception):
    """The client disconnected before its reply."""


async def unless_disconnected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Runs ``work``; cancels it, and with it the engine's work, if the client disconnects.

    Raises:
        ClientDisconnectedError: the client disconnected first.
    """
    task, gone = asyncio.create_task(work), asyncio.create_task(_disconnected(request))
    task.add_done_callback(lambda task: task.cancelled() or task.exception())  # nobody may be left to ask for it
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnectedError
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
