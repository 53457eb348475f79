"""Stands in for what vLLM's V2 model runner needs of a GPU, where ``TRITON_INTERPRET`` is 1. For tests only."""

from __future__ import annotations

import os


def register() -> None:
    """Replaces the kernel that Triton's interpreter cannot run by vLLM's own PyTorch version of it.

    vLLM calls this in every process that it starts (entry point ``vllm.general_plugins``).
    """
    if os.environ.get("TRITON_INTERPRET") != "1":
        return
    from torch import Tensor
    from vllm.v1.sample.ops import topk_topp_sampler

    def top_k_top_p(logits: Tensor, k: Tensor | None, p: Tensor | None) -> Tensor:
        return topk_topp_sampler.apply_top_k_top_p_pytorch(logits, k, p, allow_cpu_sync=True)

    topk_topp_sampler.apply_top_k_top_p_triton = top_k_top_p
