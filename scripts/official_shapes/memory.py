"""Peak memory of this process and its children."""

from __future__ import annotations

import threading
from typing import Self

import psutil


class PeakMemory:
    """The largest resident memory of this process and its children while the context is open, in bytes.

    Memory-mapped pages of files count too, as do pages that two processes share, twice.
    """

    def __init__(self) -> None:
        self.peak = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        me = psutil.Process()
        last = False
        while not last:
            last = self._done.wait(0.1)  # the end counts too
            total = 0
            for process in [me, *me.children(recursive=True)]:
                try:
                    total += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue  # it ended since
            self.peak = max(self.peak, total)
