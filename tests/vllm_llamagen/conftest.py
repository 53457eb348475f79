"""vLLM engines in this process, so that tests can reach the model."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from vllm import LLM

from vllm_llamagen.config import LlamaGenConfig


@pytest.fixture(scope="session")
def start_engine() -> Iterator[Callable[..., LLM]]:
    """``start_engine(model_dir, guidance_streams=2, **flags)``: a vLLM ``LLM`` with the flags `llamagen_server` gives.

    Float32 and eager unless told otherwise.
    All are shut down at the end together: vLLM's process groups are those of the process, and go with the first engine.
    """
    from llamagen_server.engine import arguments as vllm_args

    engines: list[LLM] = []

    def start(model_dir: Path, guidance_streams: int = 2, **flags: Any) -> LLM:
        config = LlamaGenConfig.from_pretrained(model_dir)
        config.guidance_streams = guidance_streams
        usual = {"enforce_eager": True, "disable_log_stats": True, "max_logprobs": -1}
        parsed = vllm_args.default_flags(**{**usual, "logprobs_mode": "processed_logits", **flags})
        with mock.patch.dict(os.environ, {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}):
            arguments = vllm_args.engine_args(parsed, str(model_dir), config)
            engines.append(vllm_args.start_offline_engine(arguments))
        return engines[-1]

    yield start
    for engine in engines:
        engine.llm_engine.engine_core.shutdown()
