"""The queue of a stage."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from llamagen_server.core import metrics
from llamagen_server.stages.batcher import Batcher


async def test_waiting_items_share_a_call_and_the_loop_goes_on() -> None:
    calls: list[list[int]] = []
    begun, go = threading.Event(), threading.Event()

    def square(items: list[int]) -> list[int]:
        begun.set()
        go.wait(60)
        calls.append(items)
        return [item * item for item in items]

    with ThreadPoolExecutor(1) as thread:
        batcher = Batcher("decode", square, thread, max_batch=3)
        tasks = [asyncio.create_task(batcher(item)) for item in range(6)]
        assert await asyncio.to_thread(begun.wait, 60)
        assert metrics.WAITING.labels("decode")._value.get() == 3
        tasks[4].cancel()  # still waiting: it leaves the queue
        go.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert results[:4] + results[5:] == [0, 1, 4, 9, 25]
    assert isinstance(results[4], asyncio.CancelledError)
    assert calls == [[0, 1, 2], [3, 5]]
    assert metrics.WAITING.labels("decode")._value.get() == 0


async def test_an_error_reaches_the_items_of_its_call_only() -> None:
    def invert(items: list[int]) -> list[float]:
        return [1 / item for item in items]

    with ThreadPoolExecutor(1) as thread:
        batcher = Batcher("decode", invert, thread)
        results = await asyncio.gather(batcher(0), batcher(2), return_exceptions=True)
        assert isinstance(results[0], ZeroDivisionError)
        assert results[1] == pytest.approx(0.5)


async def test_calls_run_side_by_side() -> None:
    meeting = threading.Barrier(2, timeout=60)
    running, most = 0, 0

    def meet(items: list[int]) -> list[int]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        meeting.wait()
        running -= 1
        return items

    with ThreadPoolExecutor(4) as threads:
        batcher = Batcher("decode", meet, threads, calls=2)
        tasks = [asyncio.create_task(batcher(item)) for item in range(7)]
        await asyncio.sleep(0)
        tasks[6].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert results[:6] == list(range(6))
    assert isinstance(results[6], asyncio.CancelledError)
    assert most == 2
