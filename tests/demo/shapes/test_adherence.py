"""The text demo on a real server: what its images show, how they vary, and how little time serving itself takes."""

from __future__ import annotations

import statistics

import httpx
import pytest
from demo.evaluate import generate, measure
from demo.judges import CaptionJudge
from demo.shapes.captions import held_out_captions

pytestmark = [pytest.mark.engine, pytest.mark.slow]


def test_images_show_their_captions_also_where_plain_guidance_fails(demo_url: str) -> None:
    judge = CaptionJudge(held_out_captions(64))
    default, strong = measure(demo_url, judge), measure(demo_url, judge, cfg_scale=7.5)
    plain = measure(demo_url, judge, cfg_scale=7.5, cfg_min_p=0, cfg_schedule="constant")
    assert default["all"] >= 0.9, default
    assert strong["all"] >= 0.9, strong
    assert plain["all"] < 0.2, plain


def test_seeds_give_different_images_where_the_caption_leaves_freedom(demo_url: str) -> None:
    [images] = generate(demo_url, [{"prompt": "a red circle"}], per_condition=20)
    assert len({image.tobytes() for image in images}) >= 15


def test_the_stages_take_almost_all_of_the_time(demo_url: str) -> None:
    """The shares of one request are compared, so that the result does not depend on the speed of the machine."""
    shares = []
    for seed in range(7):
        reply = httpx.post(f"{demo_url}/generate", json={"prompt": "a red circle", "seed": seed}, timeout=60)
        timings = reply.raise_for_status().json()["timings"]
        total = timings.pop("total_ms")
        shares.append(sum(timings.values()) / total)
    assert statistics.median(shares) > 0.9
    assert max(shares) < 1.01
