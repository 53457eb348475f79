"""vLLM engines in this process, so that tests can reach the model; the golden models on them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.engine_flags import exact_flags
from tests.helpers.golden import Golden, StartEngine, open_golden
from vllm import LLM

from vllm_llamagen.config import LlamaGenConfig

# vLLM's V2 model runner is the default on a GPU only; on a CPU `make v2-test` turns it on.
ON_GPU = torch.cuda.is_available()
IS_V2 = os.environ.get("VLLM_USE_V2_MODEL_RUNNER", "1" if ON_GPU else "0") == "1"
collect_ignore = [] if IS_V2 else ["v2"]
if ON_GPU:
    collect_ignore += ["v2/test_gumbel_kernel.py"]  # of what stands in for a GPU


@pytest.fixture(scope="session")
def start_engine() -> Iterator[Callable[..., LLM]]:
    """``start_engine(model_dir, cfg_branches=2, **flags)``: vLLM's ``LLM`` in this process, as the server plans it.

    Float32 and eager by default. All engines are shut down together at the end: vLLM's process groups belong to the
    process and go with the first engine.
    """
    from llamagen_server.engine.arguments import default_flags, plan_engine
    from llamagen_server.engine.vllm_engine import start_offline_engine

    engines: list[LLM] = []

    def start(model_dir: Path, cfg_branches: int = 2, **flags: Any) -> LLM:
        config = LlamaGenConfig.from_pretrained(model_dir)
        config.cfg_branches = cfg_branches
        usual = {**exact_flags(), "enforce_eager": True, "disable_log_stats": True, "max_logprobs": -1}
        parsed = default_flags(**{**usual, "logprobs_mode": "processed_logits", **flags})
        engines.append(start_offline_engine(plan_engine(parsed, str(model_dir), config), in_process=True))
        return engines[-1]

    yield start
    for engine in engines:
        engine.llm_engine.engine_core.shutdown()


@pytest.fixture(scope="session")
def class_model(start_engine: StartEngine, class_model_dir: Path, golden_dir: Path) -> Golden:
    return open_golden(start_engine, "tiny_c2i", class_model_dir, golden_dir / "expected.safetensors")


@pytest.fixture(scope="session")
def hd100_model(start_engine: StartEngine, hd100_model_dir: Path, golden_dir: Path) -> Golden:
    return open_golden(start_engine, "tiny_c2i_hd100", hd100_model_dir, golden_dir / "expected.safetensors")


@pytest.fixture(scope="session")
def text_model(start_engine: StartEngine, text_model_dir: Path, golden_dir: Path) -> Golden:
    return open_golden(start_engine, "tiny_t2i", text_model_dir, golden_dir / "expected.safetensors")


@pytest.fixture(scope="session")
def gqa_model(start_engine: StartEngine, gqa_model_dir: Path, golden_dir: Path) -> Golden:
    return open_golden(start_engine, "tiny_c2i_gqa", gqa_model_dir, golden_dir / "expected_gqa.safetensors")
