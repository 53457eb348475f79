"""The roofline's arithmetic, on a network small enough to count by hand."""

from __future__ import annotations

import pytest
import torch

from llamagen_server.bench.roofline import Machine, measure_machine, roofline_seconds
from vllm_llamagen.config import LlamaGenConfig

CONFIG = LlamaGenConfig(
    dim=64, n_layer=2, n_head=2, n_kv_head=2, ffn_hidden_dim=128, grid_size=2, codebook_size=256, cfg_branches=2
)
WEIGHTS = 2 * (4 * 64 * 64 + 3 * 64 * 128) + 64 * 256
LENGTHS = 1 + 2 + 3 + 4  # positions read, summed over the four steps


def test_slow_memory_is_the_limit() -> None:
    machine = Machine(bytes_per_s=1e3, flops_per_s=1e30)
    cached = 2 * 2 * 64 * 2 * LENGTHS  # keys and values, layers, dim, branches
    assert roofline_seconds(CONFIG, 1, 4, machine) == pytest.approx(4 * (4 * WEIGHTS + cached) / 1e3)


def test_slow_products_are_the_limit() -> None:
    machine = Machine(bytes_per_s=1e30, flops_per_s=1e3)
    operations = 2 * 2 * (4 * WEIGHTS + 2 * 2 * 64 * LENGTHS)
    assert roofline_seconds(CONFIG, 1, 4, machine) == pytest.approx(operations / 1e3)


def test_a_machine_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llamagen_server.bench.roofline.COPIED_BYTES", 2**20)
    monkeypatch.setattr("llamagen_server.bench.roofline.MATRIX_WIDTH", 64)
    machine = measure_machine("cpu", torch.float32)
    assert machine.bytes_per_s > 0
    assert machine.flops_per_s > 0
