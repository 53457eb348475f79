"""Tuning of this process for a CPU."""

from __future__ import annotations

import pytest
import torch

from llamagen_server.engine import container, cpu


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of threads that torch was set to; malloc is left alone."""
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")  # an environment that configures malloc is respected
    return asked


@pytest.mark.parametrize(("cores", "parameters", "workers"), [(3, 1000, 3), (3, 2**23, 1), (8, 1000, 1)])
def test_a_small_decoder_gets_one_thread_per_image_on_few_cores(
    cores: int, parameters: int, workers: int, threads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "cores", lambda: cores)
    monkeypatch.setattr(torch, "get_num_threads", lambda: cores)
    assert cpu.tune_process(parameters) == workers
    assert threads == ([1] if workers > 1 else [])


@pytest.mark.parametrize(("quota", "given"), [(None, []), (64.0, []), (8.9, [8])])
def test_torch_gets_no_more_threads_than_a_quota_leaves(
    quota: float | None, given: list[int], threads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu.os, "sched_getaffinity", lambda pid: set(range(64)))
    monkeypatch.setattr(container, "cpu_quota", lambda: quota)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert cpu.tune_process(1000) == 1
    assert threads == given
