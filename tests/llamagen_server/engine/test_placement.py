"""Processes, threads and cores of an engine on a CPU."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

from llamagen_server.engine import container, cpu, placement
from llamagen_server.engine.arguments import default_flags, plan_engine
from llamagen_server.engine.placement import BINDING
from vllm_llamagen import vllm_compat
from vllm_llamagen.config import LlamaGenConfig
from vllm_llamagen.vllm_compat import current_platform

needs_cpu = pytest.mark.skipif(not current_platform.is_cpu(), reason="an engine on GPUs is placed by vLLM")


@pytest.fixture(autouse=True)
def whole_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are no limits of a container, and no variables of the user's."""
    monkeypatch.setattr(container, "cpu_quota", lambda: None)
    monkeypatch.setattr(container, "shared_memory", lambda: None)
    for name in (BINDING, "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)


@needs_cpu
@pytest.mark.parametrize(("cores", "dim", "threads"), [(2, 64, "1"), (2, 768, "2"), (4, 768, "4"), (8, 768, None)])
def test_threads_and_blocks_of_the_engine_on_a_cpu(
    cores: int, dim: int, threads: str | None, monkeypatch: pytest.MonkeyPatch, class_model_dir: Path
) -> None:
    monkeypatch.setattr(cpu, "cores", lambda: cores)
    config = LlamaGenConfig(
        architectures=["LlamaGenForCausalLM"], dim=dim, n_head=dim // 64, n_kv_head=dim // 64, ffn_hidden_dim=dim
    )
    plan = plan_engine(default_flags(), str(class_model_dir), config)
    assert plan.environment.get("OMP_NUM_THREADS") == threads
    assert (plan.arguments.distributed_executor_backend is not None) == (threads is not None)
    assert plan.arguments.block_size == 32
    larger = plan_engine(default_flags(block_size=128), str(class_model_dir), config)
    assert larger.arguments.block_size == 128


def cpus(cores: int, nodes: int = 1, threads: int = 1) -> list[SimpleNamespace]:
    """Cores as Linux numbers them: first one thread of every core, then the second ones."""
    ids = range(cores * threads)
    return [SimpleNamespace(id=i, physical_core=i % cores, numa_node=i % cores * nodes // cores) for i in ids]


@needs_cpu
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
    config = LlamaGenConfig.from_pretrained(class_model_dir)
    plan = plan_engine(default_flags(**flags), str(class_model_dir), config)
    assert plan.environment.get(BINDING) == binding
    monkeypatch.setenv(BINDING, "1|0")
    assert BINDING not in plan_engine(default_flags(**flags), str(class_model_dir), config).environment


def test_numbers_of_workers_that_cannot_work_are_named(monkeypatch: pytest.MonkeyPatch, class_model_dir: Path) -> None:
    monkeypatch.setattr(vllm_compat, "get_allowed_cpu_list", lambda: cpus(2))
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


@needs_cpu
@pytest.mark.parametrize(
    ("dim", "quota", "threads"), [(768, 8.0, "7"), (768, 2.5, "2"), (64, 2.5, "1"), (768, 64.0, None)]
)
def test_an_engine_under_a_quota_is_one_process_with_as_many_threads(
    dim: int, quota: float, threads: str | None, monkeypatch: pytest.MonkeyPatch, class_model_dir: Path
) -> None:
    monkeypatch.setattr(cpu.os, "sched_getaffinity", lambda pid: set(range(64)))
    monkeypatch.setattr(container, "cpu_quota", lambda: quota)
    config = LlamaGenConfig(dim=dim, n_head=dim // 64, n_kv_head=dim // 64, ffn_hidden_dim=dim)
    flags = default_flags()
    assert placement.place_alone(flags, config).get("OMP_NUM_THREADS") == threads
    assert (flags.distributed_executor_backend is not None) == (threads is not None)


def test_workers_under_a_quota_share_it_and_are_not_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_compat, "get_allowed_cpu_list", lambda: cpus(64, nodes=2))
    monkeypatch.setattr(cpu.os, "sched_getaffinity", lambda pid: set(range(64)))
    assert placement.place_workers(2) == {}
    monkeypatch.setattr(container, "cpu_quota", lambda: 9.0)
    assert placement.place_workers(2) == {BINDING: "nobind", "OMP_NUM_THREADS": "4"}
    assert placement.place_workers(16)["OMP_NUM_THREADS"] == "1"


def test_little_shared_memory(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """As much as Docker allows: two processes of vLLM need more."""
    config = LlamaGenConfig(dim=768, n_head=12, n_kv_head=12, ffn_hidden_dim=768)
    monkeypatch.setattr(cpu, "cores", lambda: 16)
    for found, is_one_process in ((None, False), (2**30, False), (64 * 2**20, True)):
        monkeypatch.setattr(container, "shared_memory", lambda found=found: found)
        flags = default_flags()
        assert placement.place_alone(flags, config) == ({"OMP_NUM_THREADS": "15"} if is_one_process else {})
        assert (flags.distributed_executor_backend is not None) == is_one_process
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert record.message.startswith(
        "/dev/shm has 64 MiB, two processes need 240 MiB (docker run --shm-size 1g): the engine"
    )
    with pytest.raises(ValueError, match=r"^/dev/shm has 64 MiB, 2 workers need 240 MiB \(docker run --shm-size 1g\)$"):
        placement.place_workers(2)


def test_few_cores_need_no_shared_memory(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(cpu, "cores", lambda: 2)
    monkeypatch.setattr(container, "shared_memory", lambda: 0)
    config = LlamaGenConfig(dim=768, n_head=12, n_kv_head=12, ffn_hidden_dim=768)
    assert placement.place_alone(default_flags(), config) == {"OMP_NUM_THREADS": "2"}
    assert not caplog.records
