"""Micro-batching: work of many tasks done in worker threads, what waits together in one call."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from llamagen_server.core import metrics

Item = TypeVar("Item")
Out = TypeVar("Out")


class Batcher(Generic[Item, Out]):
    """Calls ``work`` off the event loop with up to ``max_batch`` items, as they come.

    Nothing waits for a batch to fill: while calls run, the items for the next one gather. The queue is bounded by
    the pipeline's admission: a picture has at most one item in it.
    """

    def __init__(
        self,
        stage: str,
        work: Callable[[list[Item]], Sequence[Out]],
        threads: ThreadPoolExecutor,
        max_batch: int = 1,
        calls: int = 1,
    ) -> None:
        """Up to ``calls`` run at a time, in ``threads``, which stages that share a device may share.

        ``stage`` names it in the metrics.
        """
        self._work, self._threads, self.max_batch, self._calls = work, threads, max_batch, calls
        self._num_waiting = metrics.WAITING.labels(stage)
        self._waiting: deque[tuple[Item, asyncio.Future[Out]]] = deque()
        self._workers: list[asyncio.Task[None]] = []

    async def __call__(self, item: Item) -> Out:
        """The result for one item. Cancelling it takes the item back if no worker has taken it.

        Raises:
            Exception: what ``work`` raised, for every item of the call.
        """
        future: asyncio.Future[Out] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        self._num_waiting.inc()
        self._workers = [worker for worker in self._workers if not worker.done()]
        if len(self._workers) < self._calls:
            self._workers.append(asyncio.create_task(self._run()))
        return await future

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(self.max_batch, len(self._waiting)))]
            self._num_waiting.dec(len(batch))
            batch = [(item, future) for item, future in batch if not future.done()]  # cancelled ones
            if not batch:
                continue
            results: Sequence[Out | Exception]
            try:
                results = await loop.run_in_executor(self._threads, self._work, [item for item, _ in batch])
            except Exception as error:  # whatever went wrong belongs to those who wait
                results = [error] * len(batch)
            for (_, future), result in zip(batch, results, strict=True):
                if future.done():
                    continue
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)
