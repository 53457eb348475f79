from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from demo import threads


@pytest.fixture(autouse=True)
def restore_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("seconds_with_one", "seconds_with_two", "faster"), [(1.0, 3.0, 1), (3.0, 1.0, 2)])
def test_the_faster_number_of_threads_is_used_after_the_trial(
    seconds_with_one: float, seconds_with_two: float, faster: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 0.0
    monkeypatch.setattr(threads, "time", SimpleNamespace(monotonic=lambda: clock))
    choice = threads.ThreadChoice(most=2, trial=2, period=6)
    used = []
    for _ in range(12):
        choice.before_step()
        used.append(torch.get_num_threads())
        clock += seconds_with_one if used[-1] == 1 else seconds_with_two
        choice.after_step()
    assert used == 2 * [1, 1, 2, 2, faster, faster]
