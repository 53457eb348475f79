"""The order of work that several clients wait for: each client gets its turn, however much another has sent."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class _Client:
    last: int = 0
    """Round of its newest item."""
    open: int = 0
    """Items that have not left."""


class Rounds:
    """Start-time fair queueing (Goyal, Vin, Cheng 1996, section 2) with items of equal cost.

    Each item gets a round; lower rounds go first, and within a round the order is that of arrival. A client's items get
    consecutive rounds, so a round has at most one item of each client. Its first item gets the current round: the
    highest of an item that was served. So a new client waits for one item of each other client, not for a burst that
    another sent before. The order of a single client is that of arrival.
    """

    def __init__(self) -> None:
        self._current = 0
        self._clients: dict[str, _Client] = {}

    def next(self, client: str) -> int:
        """Returns the round that the client's next item would get."""
        known = self._clients.get(client)
        return max(self._current, known.last + 1) if known else self._current

    def enter(self, client: str) -> int:
        """Returns the round of a new item. Call `leave` exactly once for it."""
        number = self.next(client)
        known = self._clients.setdefault(client, _Client())
        known.last, known.open = number, known.open + 1
        return number

    def leave(self, client: str, number: int, served: bool) -> None:
        """Removes an item that was served, or that was given up before.

        Rounds that a client took for nothing are given back once it has no item left. It is forgotten when that cannot
        change its next round; with no item left at all, the rounds start at 0 again.
        """
        known = self._clients[client]
        known.open -= 1
        if served:
            self._current = max(self._current, number)
        if not known.open:
            known.last = min(known.last, self._current)
        self._clients = {c: k for c, k in self._clients.items() if k.open or k.last == self._current}
        if not any(k.open for k in self._clients.values()):
            self._clients, self._current = {}, 0
