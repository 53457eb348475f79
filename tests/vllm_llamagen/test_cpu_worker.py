"""The worker of a container with a memory limit."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from llamagen_server.engine.arguments import CONTAINER_WORKER
from vllm_llamagen import cpu_worker
from vllm_llamagen.vllm_compat import CPUWorker, current_platform

pytestmark = pytest.mark.skipif(not current_platform.is_cpu(), reason="the worker of a CPU")


class Runner:
    warmed_up = 0

    def warming_up_model(self) -> None:
        self.warmed_up += 1


def worker(size: int | None, mode: int) -> cpu_worker.ContainerWorker:
    made = cpu_worker.ContainerWorker.__new__(cpu_worker.ContainerWorker)
    made.cache_config = SimpleNamespace(kv_cache_memory_bytes=size)
    made.compilation_config = SimpleNamespace(mode=mode)
    made.model_runner = Runner()
    made.requested_cpu_memory = 2**60
    return made


def test_its_name() -> None:
    assert f"{cpu_worker.__name__}.{cpu_worker.ContainerWorker.__name__}" == CONTAINER_WORKER


@pytest.mark.parametrize(("mode", "warmed_up"), [(0, 0), (2, 1)])
def test_the_kv_cache_has_the_given_size_whatever_is_free(mode: int, warmed_up: int) -> None:
    size = 2**50
    ours = worker(size, mode)
    with pytest.raises(ValueError, match="on kv cache allocation is less than requested memory"):
        CPUWorker.determine_available_memory(ours)
    ours.model_runner.warmed_up = 0
    assert ours.determine_available_memory() == size
    assert ours.model_runner.warmed_up == warmed_up
    assert ours.cache_config.kv_cache_memory_bytes == size


def test_a_size_that_vllm_computes_is_vllms() -> None:
    with pytest.raises(ValueError, match="Reduce CPU memory used by other processes"):
        worker(None, 0).determine_available_memory()
