"""Choice of the number of threads during training."""

from __future__ import annotations

import time

import torch


class ThreadChoice:
    """Switches between one thread and all threads, whichever is currently faster.

    On a machine that also runs other work, several threads that wait for each other can be far slower than one.

    Args:
        most: number of all threads.
        trial: steps measured with one thread, and again with all.
        period: steps from one comparison to the next.
    """

    def __init__(self, most: int, trial: int = 3, period: int = 40) -> None:
        self.most, self.trial, self.period = most, trial, period
        self.count = 0
        self.times: dict[int, list[float]] = {1: [], most: []}

    def before_step(self) -> None:
        """Sets the number of threads for the next step.

        In each period the first ``trial`` steps use one thread, the next ``trial`` all threads, the rest the faster.
        """
        position = self.count % self.period
        if position == 0:
            self.times = {1: [], self.most: []}
        medians = {n: sorted(t)[len(t) // 2] for n, t in self.times.items() if t}
        best = min(medians, key=medians.__getitem__, default=1)
        torch.set_num_threads(1 if position < self.trial else self.most if position < 2 * self.trial else best)
        self._began = time.monotonic()

    def after_step(self) -> None:
        """Records the duration of the step if it belongs to a comparison."""
        if self.count % self.period < 2 * self.trial:
            self.times[torch.get_num_threads()].append(time.monotonic() - self._began)
        self.count += 1
