"""The hardware's limit, from its measured rates: what a run can hardly beat unless its weights fit into a cache."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from vllm_llamagen.config import LlamaGenConfig


@dataclass(frozen=True)
class Machine:
    """Rates of one device and dtype, the best of several runs."""

    bytes_per_s: float
    """Of a copy, reads and writes counted."""
    flops_per_s: float
    """Of a large matrix product."""


def measure(device: str, dtype: torch.dtype) -> Machine:
    """Measures a copy of 512 MiB and a product of matrices 4096 wide."""
    source = torch.empty(2**29, dtype=torch.uint8, device=device).fill_(1)
    target = torch.empty_like(source)
    copy_s = _best(lambda: target.copy_(source), device)
    a, b = (torch.randn(4096, 4096, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    product_s = _best(lambda: torch.mm(a, b, out=out), device)
    return Machine(2 * 2**29 / copy_s, 2 * 4096**3 / product_s)


def _best(work: Callable[[], object], device: str) -> float:
    def seconds() -> float:
        start = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    return min(seconds() for _ in range(5))


def floor_seconds(config: LlamaGenConfig, images: int, bytes_per_value: int, machine: Machine) -> float:
    """The least time that all codes of ``images`` images take, one step after the other.

    A step must read every weight once and the keys and values of all streams, and do two operations per weight and
    row and those of attention; it takes as long as the slower of the two.
    """
    weights = config.step_weights
    rows = images * config.guidance_streams
    total = 0.0
    for length in range(1, config.num_image_tokens + 1):
        kv_values = 2 * config.n_layer * config.n_kv_head * config.stream_head_dim * length * rows
        moved = bytes_per_value * (weights + kv_values)
        operations = 2 * rows * (weights + 2 * config.n_layer * config.dim * length)
        total += max(moved / machine.bytes_per_s, operations / machine.flops_per_s)
    return total
