"""The embedded demo model through the real server: guidance works, measured from pixels."""

from __future__ import annotations

import statistics
import time

import httpx
import pytest
from demo.captions import held_out_captions
from demo.evaluate import measure

pytestmark = pytest.mark.engine


def test_pictures_show_what_their_captions_say_and_guidance_helps(demo_url: str) -> None:
    captions = held_out_captions(64)
    guided, unguided = measure(demo_url, captions), measure(demo_url, captions, cfg_scale=1)
    assert guided.share >= 0.85, guided.row()
    assert guided.share > unguided.share


def test_a_picture_takes_seconds_and_replying_milliseconds(demo_url: str) -> None:
    overheads = []
    for seed in range(7):
        start = time.monotonic()
        reply = httpx.post(f"{demo_url}/generate", json={"prompt": "a red circle", "seed": seed}, timeout=60)
        assert time.monotonic() - start < 5
        timings = reply.json()["timings"]
        overheads.append(timings["total_ms"] - sum(v for name, v in timings.items() if name != "total_ms"))
    assert statistics.median(overheads) < 10
