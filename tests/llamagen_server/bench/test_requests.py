"""The requests of a load test."""

from __future__ import annotations

from collections import Counter

import pytest

from llamagen_server.bench.load import Kind
from llamagen_server.bench.requests import Requests

MIX = (Kind(share=3), Kind(share=1, n=4), Kind(share=1, n=2, partial_images=3))


def test_bodies() -> None:
    requests = Requests(({"class_id": 0}, {"class_id": 1}), (Kind(n=2),), seed=5)
    assert requests.body(3) == {"class_id": 1, "n": 2, "seed": 5003}
    stream = Requests(({"prompt": "a"},), (Kind(partial_images=2),)).body(0)
    assert stream == {"prompt": "a", "n": 1, "seed": 0, "stream": True, "partial_images": 2}


def test_kinds_have_their_shares_and_are_the_same_every_time() -> None:
    requests = Requests(({},), MIX, seed=1)
    kinds = [requests.kind(i) for i in range(5000)]
    assert [Counter(kinds)[kind] / 5000 for kind in MIX] == pytest.approx([0.6, 0.2, 0.2], abs=0.03)
    assert kinds == [requests.kind(i) for i in range(5000)]
    assert kinds != [Requests(({},), MIX, seed=2).kind(i) for i in range(5000)]
