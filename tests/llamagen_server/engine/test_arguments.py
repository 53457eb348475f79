"""The engine's plan: vLLM's arguments, and the placement on a CPU."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from llamagen_server.engine import cpu
from llamagen_server.engine.arguments import default_flags, plan_engine
from vllm_llamagen.config import LlamaGenConfig
from vllm_llamagen.vllm_compat import current_platform


@pytest.mark.skipif(not current_platform.is_cpu(), reason="the engine of a GPU needs no threads")
@pytest.mark.parametrize(("cores", "dim", "threads"), [(2, 64, "1"), (2, 768, "2"), (4, 768, "4"), (8, 768, None)])
def test_threads_and_blocks_of_the_engine_on_a_cpu(
    cores: int, dim: int, threads: str | None, monkeypatch: pytest.MonkeyPatch, class_model_dir: Path
) -> None:
    monkeypatch.setattr(cpu, "cores", lambda: cores)
    monkeypatch.delenv("VLLM_CPU_OMP_THREADS_BIND", raising=False)
    config = LlamaGenConfig(
        architectures=["LlamaGenForCausalLM"], dim=dim, n_head=dim // 64, n_kv_head=dim // 64, ffn_hidden_dim=dim
    )
    plan = plan_engine(default_flags(), str(class_model_dir), config)
    assert plan.environment.get("OMP_NUM_THREADS") == threads
    assert (plan.arguments.distributed_executor_backend is not None) == (threads is not None)
    assert plan.arguments.block_size == 32
    larger = plan_engine(default_flags(block_size=128), str(class_model_dir), config)
    assert larger.arguments.block_size == 128


def test_planning_changes_no_argument(class_model_dir: Path) -> None:
    config = LlamaGenConfig.from_pretrained(class_model_dir)
    flags = default_flags(hf_overrides={"rope_base": 10000.0}, logits_processors=["other:Processor"])
    before = copy.deepcopy(vars(flags)), config.to_dict()
    plan = plan_engine(flags, str(class_model_dir), config)
    assert (vars(flags), config.to_dict()) == before
    assert plan.arguments.hf_overrides == {"rope_base": 10000.0, "cfg_branches": 2}


def test_an_unknown_engine_argument_is_named() -> None:
    with pytest.raises(ValueError, match="vLLM has no engine argument max_num_seq$"):
        default_flags(max_num_seq=3)
