"""What each image of a set is."""

from __future__ import annotations

import pytest

from llamagen_server.core.request import MAX_SEED
from llamagen_server.sample.plan import SamplePlan, Shard


@pytest.mark.parametrize("count", [8, 10, 2000, 50_000])
@pytest.mark.parametrize("of", [1, 3, 8])
def test_shards_make_the_whole_in_order(count: int, of: int) -> None:
    shards = [Shard(number, of).indices(count) for number in range(1, of + 1)]
    assert [index for shard in shards for index in shard] == list(range(count))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "1/0", "a/b", "-1/2", "1/2/3", "١/٢"])
def test_what_is_no_shard(text: str) -> None:
    with pytest.raises(ValueError, match="must be I/N with I from 1 to N"):
        Shard.parse(text)


def test_any_part_of_a_set_of_classes_is_balanced() -> None:
    plan = SamplePlan(count=1000, first_seed=7, class_ids=[3, 5, 8])
    classes = [plan.condition(index) for index in range(plan.count)]
    assert classes[:4] == [3, 5, 8, 3]
    counts = [classes.count(c) for c in (3, 5, 8)]
    assert max(counts) - min(counts) <= 1
    request = plan.request(4)
    assert (request.class_id, request.seed, request.n) == (5, 11, 1)


def test_captions_have_groups_and_begin_again() -> None:
    plan = SamplePlan(count=5, first_seed=MAX_SEED, captions=["a", "b"], group=2, sampling={"cfg_scale": 2.0})
    assert [plan.condition(index) for index in range(5)] == ["a", "a", "b", "b", "a"]
    assert [plan.seed(index) for index in range(3)] == [MAX_SEED, 0, 1]
    assert (plan.request(2).prompt, plan.request(2).cfg_scale) == ("b", 2.0)
    assert plan.numbered_captions(range(2, 4)) == {2: "b"}


def test_more_shards_than_images() -> None:
    with pytest.raises(ValueError, match="--shard is 1/3, but there are 2 images only"):
        Shard(1, 3).indices(2)
