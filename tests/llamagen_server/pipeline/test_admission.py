"""Admission: the places, their shares, the deadlines, and what a refusal says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamagen_server.core import metrics
from llamagen_server.core.errors import InvalidRequestError, OverloadedError
from llamagen_server.core.options import NO_LIMITS, Limits
from llamagen_server.pipeline.admission import MAX_RETRY_AFTER, SHARE, Admission


def admission(max_in_flight: int = 100, batch: int = 4, rate: float | None = None) -> Admission:
    made = Admission(Limits(max_in_flight=max_in_flight), batch)
    made.throughput.rate = rate
    return made


def rejected(reason: str) -> float:
    return metrics.REJECTED.labels(reason)._value.get()


@pytest.fixture
def held() -> Iterator[ExitStack]:
    """Requests that are in flight until the test ends."""
    with ExitStack() as stack:
        yield stack


def refusal(server: Admission, *request: Any) -> OverloadedError:
    with pytest.raises(OverloadedError) as error, server.admit(*request):
        pass
    return error.value


def test_the_whole_bound_is_for_a_client_alone(held: ExitStack) -> None:
    server = admission(10)
    for _ in range(10):
        held.enter_context(server.admit(1, "a"))
    before = rejected("full")
    assert str(refusal(server, 1, "a")) == "10 images are in flight, at most 10 are allowed"
    assert rejected("full") == before + 1
    with pytest.raises(InvalidRequestError, match="n is 11, must be at most 10"), server.admit(11, "a"):
        pass


def test_a_client_leaves_places_for_the_next_once_there_are_two(held: ExitStack) -> None:
    server = admission(100)
    with server.admit(1, "b"):
        pass
    for _ in range(80):
        held.enter_context(server.admit(1, "a"))
    message = "80 images of this key are in flight, and only 20 of 100 places are free for all"
    assert str(refusal(server, 1, "a")) == message
    for number in range(10):
        held.enter_context(server.admit(2, f"new {number}"))
    assert server.in_flight == 100


@pytest.mark.parametrize("n", range(1, 11))
def test_a_client_with_nothing_in_flight_needs_free_places_only(n: int) -> None:
    server = admission(n)
    for client in "ab":
        with server.admit(n, client):
            assert server.in_flight == n


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 10)), max_size=60), st.integers(10, 60))
def test_the_share_rule(requests: list[tuple[str, int]], limit: int) -> None:
    server = admission(limit)
    held: dict[str, int] = {}
    clients: set[str] = set()
    with ExitStack() as stack:
        for client, n in requests:
            clients.add(client)
            own, free = held.get(client, 0), limit - sum(held.values())
            # As if the images came one by one, by the definition.
            one_by_one = all(own + i < SHARE * (free - i) for i in range(n))
            allowed = n <= free and (len(clients) == 1 or own == 0 or one_by_one)
            try:
                stack.enter_context(server.admit(n, client))
            except OverloadedError:
                assert not allowed
            else:
                assert allowed
                held[client] = own + n
            assert server.in_flight == sum(held.values()) <= limit
    assert (server.in_flight, server._held, server._queue, server._rounds._clients) == (0, {}, set(), {})


def test_retry_after_is_the_time_until_there_are_places(held: ExitStack) -> None:
    server = admission(20, rate=0.5)
    held.enter_context(server.admit(18))
    assert refusal(server, 6).retry_after == 8  # four images more must finish, two seconds each
    server.throughput.rate = 100.0
    assert refusal(server, 6).retry_after == 1
    server.throughput.rate = 0.001
    assert refusal(server, 6).retry_after == MAX_RETRY_AFTER
    server.throughput.rate = None
    assert refusal(server, 6).retry_after == 1


def test_retry_after_of_a_share_is_enough_for_the_next_try() -> None:
    """Once as many images of this client are finished as Retry-After counts, the request is accepted."""
    for n in range(1, 11):
        server = admission(100, rate=1.0)
        with server.admit(1, "b"):
            pass
        with ExitStack() as stack:
            mine = []
            with suppress(OverloadedError):
                while True:
                    mine.append(stack.enter_context(ExitStack()))
                    mine[-1].enter_context(server.admit(1, "a"))
            before = rejected("share")
            wait = refusal(server, n, "a").retry_after
            assert rejected("share") == before + 1
            for request in mine[: wait - 1]:
                request.close()
            refusal(server, n, "a")
            mine[wait - 1].close()
            with server.admit(n, "a"):
                pass


def test_a_deadline_that_cannot_be_met_is_refused_at_once(held: ExitStack) -> None:
    server = admission(100, batch=4, rate=2.0)
    held.enter_context(server.admit(40))
    with server.admit(1, "", 29.0):
        pass
    before = rejected("deadline")
    error = refusal(server, 1, "", 15.0)
    assert str(error) == "the 40 images ahead take about 20 seconds: timeout is 15, must be 29"
    assert error.retry_after == 10
    assert rejected("deadline") == before + 1
    assert server.in_flight == 40


def test_a_deadline_counts_the_images_that_are_ahead_in_the_fair_order(held: ExitStack) -> None:
    server = admission(1000, batch=4, rate=1.0)
    held.enter_context(server.admit(500, "burst"))
    with server.admit(2, "other", 5.0) as places:  # ahead: two images of the burst, and its own first
        assert [place.round for place in places] == [0, 1]
    assert str(refusal(server, 2, "third", 2.0)).startswith("the 3 images ahead take about 3 seconds")
    assert str(refusal(server, 1, "burst", 499.0)).startswith("the 500 images ahead take about 500 seconds")


def test_no_deadline_is_refused_without_a_rate_a_full_engine_or_limits(held: ExitStack) -> None:
    unknown, idle, free = admission(rate=None), admission(batch=41, rate=0.1), Admission(NO_LIMITS, 4)
    free.throughput.rate = 0.1
    for server in (unknown, idle, free):
        held.enter_context(server.admit(40))
        with server.admit(1, "", 0.001):
            pass


def test_a_finished_image_is_no_longer_ahead_but_keeps_its_place() -> None:
    server = admission(100, batch=1)
    with server.admit(3) as places:
        assert [place.round for place in places] == [0, 1, 2]
        server.finish(places[0])
        assert server.in_flight == 3
        server.throughput.rate = 1.0
        assert str(refusal(server, 1, "", 1.0)).startswith("the 2 images ahead")
    assert (server.in_flight, server._queue) == (0, set())


def test_the_image_tokenizer_alone_takes_no_round(held: ExitStack) -> None:
    server = admission(10)
    with server.admit(1, "a") as [first], server.hold(5, "b"), server.admit(1, "b") as [second]:
        assert (first.round, second.round) == (0, 0)
        assert server.in_flight == 7
