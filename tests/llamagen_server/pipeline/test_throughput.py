"""The measured rate of finished images."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamagen_server.pipeline.throughput import Throughput


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def finish(throughput: Throughput, unfinished: int) -> int:
    throughput.finish()
    throughput.count(unfinished - 1)
    return unfinished - 1


@given(st.integers(1, 20), st.floats(0.01, 1000), st.booleans(), st.integers(2, 8))
def test_images_that_end_together_or_evenly_have_the_same_rate(
    batch: int, seconds: float, together: bool, batches: int
) -> None:
    """``batch`` images each take ``seconds``."""
    clock = Clock()
    throughput = Throughput(batch, clock)
    unfinished = batch * (batches + 1)
    throughput.count(unfinished)
    for _ in range(batches):
        for i in range(batch):
            if not together:
                clock.now += seconds / batch
            elif i == 0:
                clock.now += seconds
            unfinished = finish(throughput, unfinished)
    assert throughput.rate == pytest.approx(batch / seconds, rel=1e-6)
    assert throughput.seconds(3 * batch) == pytest.approx(3 * seconds, rel=1e-6)


def test_time_in_which_the_engine_is_not_full_does_not_count() -> None:
    clock = Clock()
    throughput = Throughput(4, clock)
    throughput.count(3)
    clock.now += 1000  # three images alone, slowly
    finish(throughput, 3)
    assert throughput.rate is None
    assert throughput.seconds(100) == 0
    throughput.count(12)
    for unfinished in range(12, 8, -1):
        clock.now += 0.5
        finish(throughput, unfinished)
    assert throughput.rate == pytest.approx(2)
    throughput.count(0)
    clock.now += 1000
    throughput.count(8)
    for unfinished in range(8, 4, -1):
        clock.now += 0.5
        finish(throughput, unfinished)
    assert throughput.rate == pytest.approx(2)


def test_a_stall_changes_the_rate_little_and_a_lasting_change_soon() -> None:
    clock = Clock()
    throughput = Throughput(1, clock)
    throughput.count(1000)

    def images(count: int, seconds: float) -> None:
        for _ in range(count):
            clock.now += seconds
            finish(throughput, 1000)

    images(10, 1.0)
    images(1, 600.0)
    assert throughput.rate == pytest.approx(0.75, abs=0.01)
    images(20, 4.0)
    assert throughput.rate == pytest.approx(0.25, abs=0.01)
