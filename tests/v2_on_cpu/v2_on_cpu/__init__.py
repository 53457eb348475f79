"""Stands in for what vLLM's V2 model runner needs of a GPU, where ``TRITON_INTERPRET`` is 1. For tests only."""

from __future__ import annotations

import os


def register() -> None:
    """Replaces the kernel that Triton's interpreter cannot run, and the one that takes it longest.

    vLLM calls this in every process that it starts (entry point ``vllm.general_plugins``).
    """
    if os.environ.get("TRITON_INTERPRET") != "1":
        return
    from torch import Tensor
    from vllm.v1.sample.ops import topk_topp_sampler
    from vllm.v1.worker.gpu.sample import gumbel

    from v2_on_cpu.gumbel_kernel import GumbelKernel

    def top_k_top_p(logits: Tensor, k: Tensor | None, p: Tensor | None) -> Tensor:
        return topk_topp_sampler.apply_top_k_top_p_pytorch(logits, k, p, allow_cpu_sync=True)

    topk_topp_sampler.apply_top_k_top_p_triton = top_k_top_p  # vLLM's own version in PyTorch
    if not isinstance(gumbel._gumbel_sample_kernel, GumbelKernel):
        gumbel._gumbel_sample_kernel = GumbelKernel(gumbel._gumbel_sample_kernel)
