"""Estimates from data sheets."""

from __future__ import annotations

import pytest

from llamagen_server.bench.devices import CAUTIOUS, DEVICES, ROOFLINE, Assumptions, decode_flops, estimate
from llamagen_server.bench.engine import random_config
from llamagen_server.bench.engine_options import EngineOptions
from llamagen_server.bench.roofline import roofline_seconds

XL = random_config(EngineOptions(size="XL", image_size=384))
H100 = DEVICES["h100"]


def test_the_roofline_estimate_is_the_roofline_and_the_decoder() -> None:
    curve = estimate(XL, H100, ROOFLINE, max_num_seqs=8)
    engine_s = roofline_seconds(XL, 8, 2, H100.machine)
    decode_s = 8 * decode_flops(24) / (H100.machine.flops_per_s / 2)
    assert curve.places == 8
    assert curve.saturation == pytest.approx(8 / (engine_s + decode_s))


def test_assumptions_make_it_slower() -> None:
    fast, half, overhead, cautious = (
        estimate(XL, H100, assumptions, 64).saturation
        for assumptions in (ROOFLINE, Assumptions(0.5, 0.0), Assumptions(1.0, 0.01), CAUTIOUS)
    )
    assert half == pytest.approx(fast / 2)
    assert 1 / overhead == pytest.approx(1 / fast + XL.num_image_tokens * 0.01 / 64)
    assert cautious < half


def test_the_memory_limits_the_batch() -> None:
    """An image of XL takes 36 layers x 1280 x 2 branches x keys and values x 577 tokens in blocks x 2 bytes."""
    per_image = 36 * 1280 * 2 * 2 * 592 * 2
    free = 0.9 * 24e9 - 4 * 2**30 - 2 * XL.step_weights
    assert estimate(XL, DEVICES["l4"], ROOFLINE, 1024).places == int(free // per_image)
    huge = random_config(EngineOptions(size="7B", image_size=2048))
    with pytest.raises(ValueError, match="billion weights and one of its images do not fit into a device of 24 GB"):
        estimate(huge, DEVICES["l4"], ROOFLINE, 1024)


def test_decoding_grows_with_the_area() -> None:
    assert decode_flops(32) == pytest.approx(4 * decode_flops(16), rel=0.02)
    assert 1e11 < decode_flops(16) < 1e12
