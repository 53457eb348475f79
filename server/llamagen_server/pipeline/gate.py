"""A gate that work passes, and that closes for changes which no work may see half done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Gate:
    """Open at first. Closing it waits for the work that is inside; work that arrives waits until it opens again."""

    def __init__(self) -> None:
        self._inside = 0
        self._holders: set[object] = set()
        """Those who hold it closed."""
        self._opened, self._emptied = asyncio.Event(), asyncio.Event()
        self._opened.set()
        self._emptied.set()

    def is_held_by(self, holder: object) -> bool:
        return holder in self._holders

    @asynccontextmanager
    async def passing(self) -> AsyncIterator[None]:
        """Waits until the gate is open, and counts as work inside."""
        while self._holders:
            await self._opened.wait()
        self._inside += 1
        self._emptied.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._emptied.set()

    async def close(self, holder: object) -> None:
        """Closes the gate until `open` is called with the same holder, and waits until nothing is inside."""
        self._holders.add(holder)
        self._opened.clear()
        try:
            await self._emptied.wait()
        except BaseException:
            self.open(holder)
            raise

    def open(self, holder: object) -> None:
        self._holders.discard(holder)
        if not self._holders:
            self._opened.set()

    @asynccontextmanager
    async def closed(self) -> AsyncIterator[None]:
        """Closes the gate meanwhile."""
        holder = object()
        await self.close(holder)
        try:
            yield
        finally:
            self.open(holder)
