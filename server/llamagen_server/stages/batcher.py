"""The queue of a stage: items of many tasks, processed in worker threads, several in one call."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from llamagen_server.core import metrics
from llamagen_server.core.rounds import Rounds

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Out = TypeVar("Out")


@dataclass(frozen=True, order=True)
class _Waiting(Generic[Item, Out]):
    """An item in the queue; sorted by its round, then by its arrival."""

    round: int
    arrival: int
    client: str = field(compare=False)
    item: Item = field(compare=False)
    future: asyncio.Future[Out] = field(compare=False)


class Batcher(Generic[Item, Out]):
    """Calls ``work`` off the event loop with up to ``max_batch`` items. Clients get their turns (`core.rounds`).

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
        self._heap: list[_Waiting[Item, Out]] = []
        self._arrivals = itertools.count()
        self._rounds = Rounds()
        self._workers: list[asyncio.Task[None]] = []

    async def __call__(self, item: Item, client: str = "") -> Out:
        """Returns the result of one item. Cancelling removes the item from the queue if no worker has taken it.

        Raises:
            Exception: whatever ``work`` raised for this item, or for a call with this item alone if it had several.
        """
        future: asyncio.Future[Out] = asyncio.get_running_loop().create_future()
        number = self._rounds.enter(client)
        heapq.heappush(self._heap, _Waiting(number, next(self._arrivals), client, item, future))
        self._num_waiting.inc()
        self._workers = [worker for worker in self._workers if not worker.done()]
        if len(self._workers) < self._calls:
            self._workers.append(asyncio.create_task(self._run(), context=Context()))  # of no request's own
        return await future

    async def _run(self) -> None:
        while self._heap:
            batch = [self._pop() for _ in range(min(self.max_batch, len(self._heap)))]
            await self._process([waiting for waiting in batch if not waiting.future.done()])  # drops cancelled items

    def _pop(self) -> _Waiting[Item, Out]:
        waiting = heapq.heappop(self._heap)
        self._num_waiting.dec()
        self._rounds.leave(waiting.client, waiting.round, served=not waiting.future.done())
        return waiting

    async def _process(self, batch: list[_Waiting[Item, Out]]) -> None:
        """Sets the results of a batch. If its call fails, each item gets a call of its own, and may fail alone.

        The memory may suffice for one item where it did not for several.
        """
        if batch and not await self._call(batch):
            for waiting in batch:
                if not waiting.future.done():
                    await self._call([waiting])

    async def _call(self, batch: list[_Waiting[Item, Out]]) -> bool:
        """Sets the results of one call. Returns False, with none set, if a call with several items fails.

        The error is gone by then, and with it the memory of the call.
        """
        loop = asyncio.get_running_loop()
        try:
            out = await loop.run_in_executor(self._threads, self._work, [waiting.item for waiting in batch])
            results = list(zip(batch, out, strict=True))
        except Exception as error:
            if len(batch) > 1:
                logger.warning("a call with %d items failed, each is tried alone: %r", len(batch), error)
                return False
            if not batch[0].future.done():
                batch[0].future.set_exception(error)
            return True
        for waiting, result in results:
            if not waiting.future.done():
                waiting.future.set_result(result)
        return True
