"""The map over threads: order, bounded look-ahead, errors."""

from __future__ import annotations

import threading

import pytest

from llamagen_server.evaluation.ordered_threads import in_batches, in_threads


def test_results_keep_the_order_whichever_thread_is_first() -> None:
    second_done = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            assert second_done.wait(10)
        if item == 1:
            second_done.set()
        return item * 10

    assert list(in_threads(work, range(7), threads=2)) == [0, 10, 20, 30, 40, 50, 60]


def test_it_works_only_a_little_ahead() -> None:
    read: list[int] = []

    def items():
        for item in range(100):
            read.append(item)
            yield item

    results = in_threads(lambda item: item, items(), threads=2, ahead=3)
    assert next(results) == 0
    assert len(read) == 4  # the next one is read, and waits until a result is taken
    results.close()
    assert len(read) == 4


def test_errors_of_threads_and_of_the_items_reach_the_caller() -> None:
    with pytest.raises(ZeroDivisionError):
        list(in_threads(lambda item: 1 // item, [1, 0, 1], threads=2))

    def broken():
        yield 1
        raise OSError("no such image")

    with pytest.raises(OSError, match="no such image"):
        list(in_threads(lambda item: item, broken(), threads=1))


def test_batches() -> None:
    assert list(in_batches("abcde", 2)) == [["a", "b"], ["c", "d"], ["e"]]
    assert list(in_batches("", 2)) == []
