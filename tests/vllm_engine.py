"""vLLM engines for tests, in this process so that tests can reach the model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock


@contextmanager
def llamagen_engine(model_dir: Path, guidance_streams: int = 2, **flags: Any) -> Iterator[Any]:
    """A vLLM ``LLM`` in float32, eager, with the flags that `llamagen_server` gives it."""
    with mock.patch.dict(os.environ, {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}):
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        from llamagen_server import vllm_args
        from vllm_llamagen.config import LlamaGenConfig

        config = LlamaGenConfig.from_pretrained(model_dir)
        config.guidance_streams = guidance_streams
        parsed = vllm_args.default_flags(enforce_eager=True, disable_log_stats=True, max_logprobs=-1, **flags)
        parsed.logprobs_mode = "processed_logits"
        llm = vllm_args.start_offline_engine(vllm_args.engine_args(parsed, str(model_dir), config))
        yield llm
        llm.llm_engine.engine_core.shutdown()
        del llm
        cleanup_dist_env_and_memory()
