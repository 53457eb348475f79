"""The flags with which tests start engines, on any device: exact, and with little memory, as many run at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llamagen_server.engine import cpu

needs_two_devices = pytest.mark.skipif(
    (torch.cuda.device_count() if torch.cuda.is_available() else cpu.cores()) < 2,
    reason="each worker needs a GPU, or a core, of its own",
)

KV_CACHE_BYTES = 2**28
"""KV cache of an engine on a GPU, which vLLM would give all of the memory: 700 images of the golden models."""


def exact_flags() -> dict[str, Any]:
    """Returns vLLM's flags by their names in Python. On a GPU vLLM would run float32 models in bfloat16."""
    if not torch.cuda.is_available():
        return {"dtype": "float32"}
    # vLLM refuses to start if less than the share of the GPU's memory is free, even if it will take less.
    return {
        "dtype": "float32",
        "kv_cache_memory_bytes": KV_CACHE_BYTES,
        "gpu_memory_utilization": 0.05,
        "max_num_seqs": 64,
    }


def exact_arguments() -> list[str]:
    """Returns `exact_flags` for a command line."""
    return [f"--{name.replace('_', '-')}={value}" for name, value in exact_flags().items()]
