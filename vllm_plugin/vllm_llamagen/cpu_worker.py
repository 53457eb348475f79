"""vLLM's worker on a CPU."""

from __future__ import annotations

from typing import Any

from vllm_llamagen.runner_v1 import BranchSampler
from vllm_llamagen.vllm_compat import CPUWorker


class LlamaGenCPUWorker(CPUWorker):
    """A worker whose V1 model runner samples with `BranchSampler`. The V2 model runner has a hook of its own."""

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        super().load_model(*args, **kwargs)
        if not self.vllm_config.use_v2_model_runner:
            sampler = self.model_runner.sampler
            self.model_runner.sampler = BranchSampler(sampler.logprobs_mode, sampler.use_fp64_gumbel)


class ContainerWorker(LlamaGenCPUWorker):
    """A worker that takes the KV cache's size as it is given, for a container whose memory has a limit.

    vLLM compares it with what the container's limit leaves, and counts cached files as used. The weights' files alone
    fill the memory up to the limit then, and any KV cache is refused, although the kernel drops cached files when
    memory is needed. So who sets this worker compares the sizes.
    """

    def determine_available_memory(self) -> int:
        size = self.cache_config.kv_cache_memory_bytes
        if size is None:
            return super().determine_available_memory()
        self.cache_config.kv_cache_memory_bytes = 0  # fits always
        try:
            super().determine_available_memory()  # compiles and warms up, too
        finally:
            self.cache_config.kv_cache_memory_bytes = size
        return size
