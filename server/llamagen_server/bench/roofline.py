"""The roofline: the shortest time that the hardware's measured rates allow, unless the weights fit into a cache."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from vllm_llamagen.config import LlamaGenConfig

COPIED_BYTES = 2**29
MATRIX_WIDTH = 4096


@dataclass(frozen=True)
class Machine:
    """Measured rates of one device in one dtype, each the best of five runs."""

    bytes_per_s: float
    """Memory traffic of a copy; reads and writes both count."""
    flops_per_s: float
    """Operations of a large matrix product; a multiplication and an addition count as two."""


def measure_machine(device: str, dtype: torch.dtype) -> Machine:
    """Times a copy of 512 MiB and a product of two 4096 x 4096 matrices on ``cpu`` or ``cuda``."""
    source = torch.empty(COPIED_BYTES, dtype=torch.uint8, device=device).fill_(1)
    target = torch.empty_like(source)
    copy_s = _best_seconds(lambda: target.copy_(source), device)
    a, b = (torch.randn(MATRIX_WIDTH, MATRIX_WIDTH, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    product_s = _best_seconds(lambda: torch.mm(a, b, out=out), device)
    return Machine(2 * COPIED_BYTES / copy_s, 2 * MATRIX_WIDTH**3 / product_s)


def _best_seconds(work: Callable[[], object], device: str) -> float:
    def seconds() -> float:
        start = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    return min(seconds() for _ in range(5))


def roofline_seconds(config: LlamaGenConfig, images: int, bytes_per_value: int, machine: Machine) -> float:
    """Returns the shortest time in which all codes of ``images`` images can be sampled, one step after the other.

    A step reads every weight once and the keys and values of all branches. It does two operations per weight and
    branch of an image, and those of attention. It takes as long as the slower of reading and computing.
    """
    weights = config.step_weights
    sequences = images * config.cfg_branches
    total = 0.0
    for length in range(1, config.num_image_tokens + 1):
        kv_values = 2 * config.n_layer * config.n_kv_head * config.branch_head_dim * length * sequences
        moved = bytes_per_value * (weights + kv_values)
        operations = 2 * sequences * (weights + 2 * config.n_layer * config.dim * length)
        total += max(moved / machine.bytes_per_s, operations / machine.flops_per_s)
    return total
