"""The queue of a stage: items of many tasks, processed in worker threads, several in one call."""

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
    """Calls ``work`` off the event loop with up to ``max_batch`` items, in the order of their arrival.

    Nothing waits for a batch to fill: while calls run, the items of the next one gather. Admission bounds the queue: an
    image has at most one item in it.
    """

    def __init__(
        self,
        stage: str,
        work: Callable[[list[Item]], Sequence[Out]],
        threads: ThreadPoolExecutor,
        max_batch: int = 1,
        calls: int = 1,
    ) -> None:
        """Creates an empty queue.

        Args:
            stage: the stage's name in the metrics.
            work: returns one result per item, in order.
            threads: run the calls; stages that share a device may share them.
            max_batch: items per call, at most.
            calls: calls at a time, at most.
        """
        self._work, self._threads, self.max_batch, self._calls = work, threads, max_batch, calls
        self._num_waiting = metrics.WAITING.labels(stage)
        self._waiting: deque[tuple[Item, asyncio.Future[Out]]] = deque()
        self._workers: list[asyncio.Task[None]] = []

    async def __call__(self, item: Item) -> Out:
        """Returns the result of one item. Cancelling removes the item from the queue if no worker has taken it.

        Raises:
            Exception: whatever ``work`` raised, for every item of the call.
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
            batch = [(item, future) for item, future in batch if not future.done()]  # drops cancelled items
            if not batch:
                continue
            results: Sequence[Out | Exception]
            try:
                results = await loop.run_in_executor(self._threads, self._work, [item for item, _ in batch])
            except Exception as error:  # belongs to the tasks that wait for these items
                results = [error] * len(batch)
            for (_, future), result in zip(batch, results, strict=True):
                if future.done():
                    continue
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)
