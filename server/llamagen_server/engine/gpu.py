"""GPU specifics: the engine's share of the memory, and as many images at a time as fit into it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import torch

from llamagen_server.engine.arguments import GPU_BLOCK_SIZE, kv_cache_bytes
from vllm_llamagen.config import LlamaGenConfig

if TYPE_CHECKING:
    from vllm_llamagen.vllm_compat import AsyncEngineArgs

MAX_NUM_SEQS = 256
"""Default number of images at a time: 512 rows of a matrix product, from which it no longer waits for the weights."""
MIN_BATCHED_TOKENS = 2048
"""Tokens in a step that vLLM allows by default."""
ACTIVATIONS = 0.1
"""Share of the engine's memory that is left to activations and CUDA graphs."""


def fit_engine(
    arguments: AsyncEngineArgs, flags: argparse.Namespace, config: LlamaGenConfig, weight_bytes: int
) -> None:
    """Sets what the user has left to us by what the GPU has free. Call it when the stages are loaded.

    An image that enters the batch can then be finished: vLLM never has to preempt one for want of KV cache.

    Args:
        arguments: those of the plan; changed.
        flags: the user's.
        weight_bytes: bytes of the language model's weights.

    Raises:
        ValueError: the stages, or other processes, have left next to nothing.
    """
    free, total = torch.cuda.mem_get_info()
    if flags.gpu_memory_utilization is None:  # 1 GiB is for the engine's context
        arguments.gpu_memory_utilization = round((0.95 * free - 2**30) / total, 3)
        if arguments.gpu_memory_utilization <= 0:
            raise ValueError(f"the GPU has {free / 2**30:.1f} GiB of free memory, the engine needs more than 1.1 GiB")
    if flags.max_num_seqs is None:
        workers = flags.tensor_parallel_size
        memory = flags.kv_cache_memory_bytes
        if memory is None:
            memory = arguments.gpu_memory_utilization * total * (1 - ACTIVATIONS) - weight_bytes / workers
        per_image = kv_cache_bytes(config, flags.dtype, flags.block_size or GPU_BLOCK_SIZE) / workers
        arguments.max_num_seqs = max(1, min(MAX_NUM_SEQS, int(memory / per_image)))
    if flags.max_num_batched_tokens is None:
        arguments.max_num_batched_tokens = max(MIN_BATCHED_TOKENS, (1 + flags.decode_window) * arguments.max_num_seqs)
