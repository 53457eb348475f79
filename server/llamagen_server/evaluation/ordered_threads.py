"""A map over threads that keeps the order and works only a little ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def in_threads(function: Callable[[A], B], items: Iterable[A], threads: int, ahead: int | None = None) -> Iterator[B]:
    """Yields ``function(item)`` in the order of the items.

    At most ``ahead`` results (default: twice the threads) are computed or wait to be taken, which bounds the memory.
    ``items`` is read in the caller's thread.
    """
    limit = ahead or 2 * threads
    waiting: deque[Future[B]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                if len(waiting) >= limit:
                    yield waiting.popleft().result()
                waiting.append(pool.submit(function, item))
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def in_batches(items: Iterable[A], size: int) -> Iterator[list[A]]:
    """Yields lists of ``size`` items; the last one may be shorter."""
    batch: list[A] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
