"""The queue of a stage."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

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

    before = metrics.WAITING.labels("decode")._value.get()  # other tests may have left with their event loops
    with ThreadPoolExecutor(1) as thread:
        batcher = Batcher("decode", square, thread, max_batch=3)
        tasks = [asyncio.create_task(batcher(item)) for item in range(6)]
        assert await asyncio.to_thread(begun.wait, 60)
        assert metrics.WAITING.labels("decode")._value.get() == before + 3
        tasks[4].cancel()  # still waiting: it leaves the queue
        go.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert results[:4] + results[5:] == [0, 1, 4, 9, 25]
    assert isinstance(results[4], asyncio.CancelledError)
    assert calls == [[0, 1, 2], [3, 5]]
    assert metrics.WAITING.labels("decode")._value.get() == before


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


@pytest.mark.parametrize("error", [ZeroDivisionError, MemoryError, torch.OutOfMemoryError])
async def test_an_item_that_breaks_a_batch_fails_alone(
    error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[list[int]] = []

    def work(items: list[int]) -> list[int]:
        calls.append(items)
        if 2 in items:
            raise error("no")
        return [item * item for item in items]

    with ThreadPoolExecutor(1) as thread:
        batcher = Batcher("decode", work, thread, max_batch=4)
        results = await asyncio.gather(*(batcher(item) for item in range(6)), return_exceptions=True)
    assert isinstance(results.pop(2), error)
    assert results == [0, 1, 9, 16, 25]
    assert calls == [[0, 1, 2, 3], [0], [1], [2], [3], [4, 5]]
    assert "a call with 4 items failed, each is tried alone" in caplog.text


async def test_a_batch_that_is_too_large_for_the_memory_is_done_item_by_item() -> None:
    def work(items: list[int]) -> list[int]:
        if len(items) > 1:
            raise torch.OutOfMemoryError("too many")
        return items

    with ThreadPoolExecutor(1) as thread:
        batcher = Batcher("decode", work, thread, max_batch=3)
        assert await asyncio.gather(*(batcher(item) for item in range(7))) == list(range(7))


async def test_an_item_that_is_cancelled_is_not_tried_alone() -> None:
    calls: list[list[int]] = []
    begun, go = threading.Event(), threading.Event()

    def work(items: list[int]) -> list[int]:
        calls.append(items)
        begun.set()
        go.wait(60)
        if len(items) > 1:
            raise MemoryError
        return items

    with ThreadPoolExecutor(1) as thread:
        batcher = Batcher("decode", work, thread, max_batch=3)
        tasks = [asyncio.create_task(batcher(item)) for item in range(3)]
        assert await asyncio.to_thread(begun.wait, 60)
        tasks[1].cancel()
        go.set()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert calls == [[0, 1, 2], [0], [2]]


async def test_a_result_too_few_is_an_error_of_the_items() -> None:
    with ThreadPoolExecutor(1) as thread:
        batcher: Batcher[int, int] = Batcher("decode", lambda items: items[1:], thread)
        with pytest.raises(ValueError, match="zip"):
            await asyncio.wait_for(batcher(1), 60)


async def test_clients_get_their_turns() -> None:
    order: list[str] = []
    begun, go = threading.Event(), threading.Event()

    def work(items: list[str]) -> list[str]:
        begun.set()
        go.wait(60)
        order.extend(items)
        return items

    with ThreadPoolExecutor(1) as thread:
        batcher = Batcher("decode", work, thread)
        names = ["a0", "a1", "a2", "a3", "b0", "b1", "c0"]
        tasks = [asyncio.create_task(batcher(name, client=name[0])) for name in names]
        assert await asyncio.to_thread(begun.wait, 60)
        go.set()
        await asyncio.gather(*tasks)
        assert batcher._rounds._clients == {}
    assert order == ["a0", "b0", "c0", "a1", "b1", "a2", "a3"]
