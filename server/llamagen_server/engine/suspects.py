"""The search for a request that kills every engine it runs on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

Run = TypeVar("Run")

LONE_ENDS = 2
"""Ends of the engine under a request that runs alone, after which the request is to blame."""


class Suspects(Generic[Run]):
    """Requests that were running at two ends of the engine, in groups that are tried one after the other.

    A group that ends the engine is halved, until the one to blame is alone. All others are resumed: n requests with one
    that kills the engine take at most 3 + log2(n) ends. While there is a group, nothing else runs, so requests that
    arrive meanwhile are above suspicion.
    """

    def __init__(self) -> None:
        self._groups: list[list[Run]] = []
        """The last one is on trial."""
        self._once: set[Run] = set()
        """Requests that were running at one end."""
        self._lone_ends: dict[Run, int] = {}

    def may_run(self, run: Run) -> bool:
        """Whether a request may run now."""
        return not self._groups or run in self._groups[-1]

    def after_end(self, running: Iterable[Run]) -> Run | None:
        """Regroups the requests after an end of the engine, given those that were running.

        Returns:
            The request to blame, if there is one.
        """
        running = list(running)
        if self._groups:
            return self._halve(running)
        again = [run for run in running if run in self._once]
        self._once.update(running)
        if not again:
            return None
        self._groups = [again]
        return self._halve(running)

    def discard(self, run: Run) -> None:
        """Takes a request off the lists: it is finished or abandoned."""
        self._once.discard(run)
        self._lone_ends.pop(run, None)
        self._groups = [kept for group in self._groups if (kept := [other for other in group if other is not run])]

    def _halve(self, running: list[Run]) -> Run | None:
        group = self._groups[-1]
        if not running:  # the engine ended before the group was back on it
            return None
        if len(group) > 1:
            middle = (len(group) + 1) // 2
            self._groups[-1:] = [group[middle:], group[:middle]]
            return None
        [lone] = group
        if running != [lone]:  # at the end before the trial
            return None
        self._lone_ends[lone] = self._lone_ends.get(lone, 0) + 1
        return lone if self._lone_ends[lone] >= LONE_ENDS else None
