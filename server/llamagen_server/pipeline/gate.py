"""A gate that work passes, and that closes for changes which no work may see half done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Gate:
    """Open at first. Closing it waits for the work that is inside; work that arrives waits until it opens again."""

    def __init__(self) -> None:
        self._inside = 0
        self._closures = 0
        """Number of those who hold it closed."""
        self._opened, self._emptied = asyncio.Event(), asyncio.Event()
        self._opened.set()
        self._emptied.set()

    @property
    def is_closed(self) -> bool:
        return self._closures > 0

    @asynccontextmanager
    async def passing(self) -> AsyncIterator[None]:
        """Waits until the gate is open, and counts as work inside."""
        while self._closures:
            await self._opened.wait()
        self._inside += 1
        self._emptied.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._emptied.set()

    async def close(self) -> None:
        """Closes the gate and waits until nothing is inside. Each call needs its own `open`."""
        self._closures += 1
        self._opened.clear()
        try:
            await self._emptied.wait()
        except BaseException:
            self.open()
            raise

    def open(self) -> None:
        self._closures -= 1
        if not self._closures:
            self._opened.set()

    @asynccontextmanager
    async def closed(self) -> AsyncIterator[None]:
        """Closes the gate meanwhile."""
        await self.close()
        try:
            yield
        finally:
            self.open()
