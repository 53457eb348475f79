"""The order of the work of several clients."""

from __future__ import annotations

import heapq
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from llamagen_server.core.rounds import Rounds

Entry = tuple[int, int, str]
"""Round, arrival, client."""


class Server:
    """A server with ``slots`` places, whose queue is in the order of the rounds. Every item takes one step."""

    def __init__(self, slots: int) -> None:
        self.rounds, self.slots = Rounds(), slots
        self.waiting: list[Entry] = []
        self.running: list[Entry] = []
        self.arrived = 0
        self.started: list[str] = []

    def send(self, client: str, items: int = 1) -> None:
        for _ in range(items):
            heapq.heappush(self.waiting, (self.rounds.enter(client), self.arrived, client))
            self.arrived += 1

    def step(self) -> list[str]:
        """Ends what runs, starts what is next. Returns the clients of the ended items."""
        ended, self.running = self.running, []
        for number, _, client in ended:
            self.rounds.leave(client, number, served=True)
        while self.waiting and len(self.running) < self.slots:
            self.running.append(heapq.heappop(self.waiting))
            self.started.append(self.running[-1][2])
        return [client for _, _, client in ended]


def test_a_new_client_does_not_wait_for_the_burst_of_another() -> None:
    server = Server(slots=4)
    server.send("burst", 1000)
    for _ in range(50):
        server.step()
    before = len(server.started)
    server.send("single")
    server.step()
    assert server.started[before] == "single"


def test_a_client_that_sends_one_after_the_other_does_not_starve_a_burst() -> None:
    server = Server(slots=1)
    server.send("burst", 50)
    server.send("steady")
    for _ in range(60):
        for client in server.step():
            if client == "steady":
                server.send("steady")
    assert abs(server.started.count("burst") - server.started.count("steady")) <= 2


def test_rounds_of_abandoned_items_are_given_back() -> None:
    rounds = Rounds()
    rounds.enter("other")
    numbers = [rounds.enter("a") for _ in range(100)]
    for number in numbers:
        rounds.leave("a", number, served=False)
    assert (rounds.next("a"), rounds.next("new")) == (1, 0)


@given(st.lists(st.integers(1, 5), max_size=30), st.integers(1, 4))
def test_one_client_alone_is_served_in_the_order_of_arrival(bursts: list[int], slots: int) -> None:
    server = Server(slots)
    for burst in bursts:
        server.send("a", burst)
        server.step()
    order = [entry[1] for entry in sorted(server.waiting)]
    assert order == sorted(order)
    if server.running and server.waiting:
        assert max(entry[1] for entry in server.running) < min(order)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 20), st.booleans()), min_size=1, max_size=40),
    st.integers(1, 4),
)
def test_clients_that_wait_are_served_alike(arrivals: list[tuple[int, int, bool]], slots: int) -> None:
    """While several clients have items waiting, their numbers of started items differ by little more than a batch."""
    server = Server(slots)
    for who, items, goes_on in arrivals:
        server.send(f"client {who}", items)
        if goes_on:
            server.step()
    before = Counter(server.started)
    clients = {client for _, _, client in server.waiting}
    while clients:
        started = [server.started.count(client) - before[client] for client in clients]
        assert max(started) - min(started) <= slots + 2
        server.step()
        clients &= {client for _, _, client in server.waiting}


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans()), max_size=60), st.randoms())
def test_nothing_is_remembered_once_all_items_have_left(items: list[tuple[str, bool]], random: object) -> None:
    rounds = Rounds()
    open_items = [(client, rounds.enter(client), served) for client, served in items]
    random.shuffle(open_items)  # type: ignore[attr-defined]
    while open_items:
        client, number, served = open_items.pop()
        rounds.leave(client, number, served)
        waiting = {c for c, _, _ in open_items}
        known = rounds._clients
        assert waiting <= known.keys()
        assert all(known[c].last == rounds._current for c in known.keys() - waiting)
    assert rounds._clients == {}
    assert {rounds.next(client) for client in "abcdef"} == {0}
