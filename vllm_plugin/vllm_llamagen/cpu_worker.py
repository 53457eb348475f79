"""vLLM's worker on a CPU, for a container whose memory has a limit."""

from __future__ import annotations

from vllm_llamagen.vllm_compat import CPUWorker


class ContainerWorker(CPUWorker):
    """A worker that takes the KV cache's size as it is given.

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
