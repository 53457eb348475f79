"""vLLM's own warm-up of the V2 model runner, which only its GPU worker runs when it starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.helpers.golden import Golden, StartEngine, open_golden
from vllm.v1.worker.gpu.warmup import run_mixed_prefill_decode_warmup, warmup_kernels

from vllm_llamagen.guidance_counts import COUNTS

pytestmark = pytest.mark.engine


def warm_up(worker: Any) -> None:
    runner = worker.model_runner
    warmup_kernels(runner, worker.execute_model, worker.sample_tokens)
    run_mixed_prefill_decode_warmup(runner, worker.execute_model, worker.sample_tokens, num_tokens=16)


@pytest.mark.parametrize("window", [0, 8])
@pytest.mark.parametrize("name", ["tiny_c2i", "tiny_t2i"])
def test_an_engine_that_has_warmed_up_gives_the_official_tokens(
    start_engine: StartEngine, class_model_dir: Path, text_model_dir: Path, golden_dir: Path, name: str, window: int
) -> None:
    """Its requests are no images: they ask for logits of prompts too, and are not counted."""
    directory = class_model_dir if name == "tiny_c2i" else text_model_dir
    model: Golden = open_golden(
        start_engine, name, directory, golden_dir / "expected.safetensors", decode_window=window
    )
    before = (COUNTS.guided, COUNTS.conditional, COUNTS.unguided)
    model.llm.collective_rpc(warm_up)
    assert (COUNTS.guided, COUNTS.conditional, COUNTS.unguided) == before
    assert model.wrong_tokens() == 0
