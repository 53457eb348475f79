"""The engine's plan: vLLM's arguments, and the placement of its processes on a CPU."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from llamagen_server.engine import compilation, cpu
from llamagen_server.engine.arguments import BINDING, default_flags, plan_engine
from llamagen_server.engine.environment import engine_environment
from vllm_llamagen import vllm_compat
from vllm_llamagen.config import LlamaGenConfig
from vllm_llamagen.vllm_compat import current_platform


@pytest.mark.skipif(not current_platform.is_cpu(), reason="the engine of a GPU needs no threads")
@pytest.mark.parametrize(("cores", "dim", "threads"), [(2, 64, "1"), (2, 768, "2"), (4, 768, "4"), (8, 768, None)])
def test_threads_and_blocks_of_the_engine_on_a_cpu(
    cores: int, dim: int, threads: str | None, monkeypatch: pytest.MonkeyPatch, class_model_dir: Path
) -> None:
    monkeypatch.setattr(cpu, "cores", lambda: cores)
    for name in ("VLLM_CPU_OMP_THREADS_BIND", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    config = LlamaGenConfig(
        architectures=["LlamaGenForCausalLM"], dim=dim, n_head=dim // 64, n_kv_head=dim // 64, ffn_hidden_dim=dim
    )
    plan = plan_engine(default_flags(), str(class_model_dir), config)
    assert plan.environment.get("OMP_NUM_THREADS") == threads
    assert (plan.arguments.distributed_executor_backend is not None) == (threads is not None)
    assert plan.arguments.block_size == 32
    larger = plan_engine(default_flags(block_size=128), str(class_model_dir), config)
    assert larger.arguments.block_size == 128


@pytest.mark.skipif(not current_platform.is_cpu(), reason="a plan for a GPU has no variables")
def test_a_variable_of_the_user_counts_and_one_of_a_library_does_not(
    monkeypatch: pytest.MonkeyPatch, class_model_dir: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", default_cache_dir())  # as torch does
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    monkeypatch.setattr(compilation, "_compile_and_load", lambda compiler, folder: None)
    config = LlamaGenConfig.from_pretrained(class_model_dir)
    plan = plan_engine(default_flags(), str(class_model_dir), config)
    with engine_environment(plan.environment):
        assert os.environ["THP_MEM_ALLOC_ENABLE"] == "0"
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"].startswith(str(tmp_path / "llamagen" / "compiled"))
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == default_cache_dir()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "mine"))
    assert "TORCHINDUCTOR_CACHE_DIR" not in plan_engine(default_flags(), str(class_model_dir), config).environment


@pytest.mark.skipif(not current_platform.is_cpu(), reason="a plan for a GPU has no variables")
def test_an_engine_is_eager_where_nothing_can_be_compiled(
    class_model_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = LlamaGenConfig.from_pretrained(class_model_dir)
    monkeypatch.setattr(compilation, "environment", lambda: {"FOR_THE_COMPILER": "1"})
    compiled = plan_engine(default_flags(), str(class_model_dir), config)
    assert not compiled.arguments.enforce_eager
    assert compiled.environment["FOR_THE_COMPILER"] == "1"
    assert "TORCHDYNAMO_DISABLE" not in compiled.environment
    asked = plan_engine(default_flags(enforce_eager=True), str(class_model_dir), config)
    assert asked.environment["TORCHDYNAMO_DISABLE"] == "1"
    assert not caplog.records

    def fails() -> dict[str, str]:
        raise compilation.CompilationError("no compiler")

    monkeypatch.setattr(compilation, "environment", fails)
    plan = plan_engine(default_flags(), str(class_model_dir), config)
    assert plan.arguments.enforce_eager
    assert plan.environment["TORCHDYNAMO_DISABLE"] == "1"
    assert [record.message for record in caplog.records] == [
        "no compiler: running eager, which is slower than compiled"
    ]


def test_planning_changes_no_argument(class_model_dir: Path) -> None:
    config = LlamaGenConfig.from_pretrained(class_model_dir)
    flags = default_flags(hf_overrides={"rope_base": 10000.0}, logits_processors=["other:Processor"])
    before = copy.deepcopy(vars(flags)), config.to_dict()
    plan = plan_engine(flags, str(class_model_dir), config)
    assert (vars(flags), config.to_dict()) == before
    assert plan.arguments.hf_overrides == {"rope_base": 10000.0, "cfg_branches": 2}


def test_images_are_scheduled_by_priority_unless_the_user_wants_another_policy(class_model_dir: Path) -> None:
    config = LlamaGenConfig.from_pretrained(class_model_dir)
    for flags, policy in ((default_flags(), "priority"), (default_flags(scheduling_policy="fcfs"), "fcfs")):
        assert plan_engine(flags, str(class_model_dir), config).arguments.scheduling_policy == policy


def cpus(cores: int, nodes: int = 1, threads: int = 1) -> list[SimpleNamespace]:
    """Cores as Linux numbers them: first one thread of every core, then the second ones."""
    ids = range(cores * threads)
    return [SimpleNamespace(id=i, physical_core=i % cores, numa_node=i % cores * nodes // cores) for i in ids]


@pytest.mark.skipif(not current_platform.is_cpu(), reason="workers on GPUs need no cores of their own")
@pytest.mark.parametrize(
    ("machine", "flags", "binding"),
    [
        (cpus(2), {"tensor_parallel_size": 2}, "0|1"),
        (cpus(1, threads=2), {"tensor_parallel_size": 2}, "0|1"),
        (cpus(2), {"data_parallel_size": 2}, "0|1"),
        (cpus(4, threads=2), {"tensor_parallel_size": 2}, "4,5|6,7"),
        (cpus(9), {"tensor_parallel_size": 2, "data_parallel_size": 2}, "0,1|2,3|4,5|6,7"),
        (cpus(8, nodes=2), {"tensor_parallel_size": 2}, None),
    ],
)
def test_each_worker_on_a_cpu_has_cores_of_its_own(
    machine: list[SimpleNamespace],
    flags: dict[str, int],
    binding: str | None,
    monkeypatch: pytest.MonkeyPatch,
    class_model_dir: Path,
) -> None:
    monkeypatch.setattr(vllm_compat, "get_allowed_cpu_list", lambda: machine)
    monkeypatch.delenv(BINDING, raising=False)
    config = LlamaGenConfig.from_pretrained(class_model_dir)
    plan = plan_engine(default_flags(**flags), str(class_model_dir), config)
    assert plan.environment.get(BINDING) == binding
    monkeypatch.setenv(BINDING, "1|0")
    assert BINDING not in plan_engine(default_flags(**flags), str(class_model_dir), config).environment


def test_numbers_of_workers_that_cannot_work_are_named(monkeypatch: pytest.MonkeyPatch, class_model_dir: Path) -> None:
    monkeypatch.setattr(vllm_compat, "get_allowed_cpu_list", lambda: cpus(2))
    monkeypatch.delenv(BINDING, raising=False)
    config = LlamaGenConfig.from_pretrained(class_model_dir)
    with pytest.raises(ValueError, match=r"--tensor-parallel-size is 3, must be one of 1, 2, 4: each worker gets the"):
        plan_engine(default_flags(tensor_parallel_size=3), str(class_model_dir), config)
    if current_platform.is_cpu():
        with pytest.raises(ValueError, match=r"4 workers .* need as many cores, there are 2"):
            plan_engine(default_flags(tensor_parallel_size=4), str(class_model_dir), config)


def test_a_worker_keeps_its_share_of_the_kv_cache(monkeypatch: pytest.MonkeyPatch, class_model_dir: Path) -> None:
    monkeypatch.setattr(vllm_compat, "get_allowed_cpu_list", lambda: cpus(2))
    config = LlamaGenConfig.from_pretrained(class_model_dir)
    alone, half = (
        plan_engine(default_flags(max_num_seqs=3, tensor_parallel_size=size), str(class_model_dir), config).arguments
        for size in (1, 2)
    )
    assert alone.kv_cache_memory_bytes == (2 * half.kv_cache_memory_bytes if current_platform.is_cpu() else None)


def test_an_unknown_engine_argument_is_named() -> None:
    with pytest.raises(ValueError, match="vLLM has no engine argument max_num_seq$"):
        default_flags(max_num_seq=3)
