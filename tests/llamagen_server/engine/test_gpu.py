"""Defaults of an engine on a GPU, from a GPU's memory that the tests make up."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from llamagen_server.engine import environment
from llamagen_server.engine.arguments import default_flags, kv_cache_bytes, plan_engine
from llamagen_server.engine.gpu import fit_engine
from vllm_llamagen import vllm_compat
from vllm_llamagen.config import SIZES, LlamaGenConfig

GIB = 2**30


def config(size: str, grid_size: int = 24) -> LlamaGenConfig:
    network = SIZES[size]
    return LlamaGenConfig(
        **network._asdict(), n_kv_head=network.n_head, ffn_hidden_dim=network.ffn_hidden_dim, grid_size=grid_size
    )


def fitted(
    monkeypatch: pytest.MonkeyPatch, model: LlamaGenConfig, weight_bytes: int, free: float = 78, **flags: Any
) -> Any:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (int(free * GIB), 80 * GIB))
    given = default_flags(**flags)
    arguments = SimpleNamespace(**vars(given))
    fit_engine(arguments, given, model, weight_bytes)  # type: ignore[arg-type]
    return arguments


def test_the_share_of_the_memory_is_what_the_stages_left(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fitted(monkeypatch, config("B"), GIB, free=60).gpu_memory_utilization == 0.7
    assert fitted(monkeypatch, config("B"), GIB, free=60, gpu_memory_utilization=0.5).gpu_memory_utilization == 0.5


@pytest.mark.parametrize(("size", "weights", "expected"), [("B", 0.2, 256), ("XL", 1.5, 256), ("3B", 5.8, 158)])
def test_as_many_images_as_fit_run_at_a_time(
    monkeypatch: pytest.MonkeyPatch, size: str, weights: float, expected: int
) -> None:
    model = config(size)
    arguments = fitted(monkeypatch, model, int(weights * GIB))
    assert arguments.max_num_seqs == expected
    used = arguments.max_num_seqs * kv_cache_bytes(model, "auto", 16) + weights * GIB
    assert used < 0.9 * arguments.gpu_memory_utilization * 80 * GIB


def test_a_gpu_that_is_almost_full_runs_one_image_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fitted(monkeypatch, config("3B"), 6 * GIB, free=6).max_num_seqs == 1


def test_a_gpu_without_memory_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"the GPU has 0.5 GiB of free memory, the engine needs more than 1.1 GiB"):
        fitted(monkeypatch, config("B"), GIB, free=0.5)


def test_the_users_kv_cache_bounds_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    per_image = kv_cache_bytes(config("XL"), "auto", 16)
    assert fitted(monkeypatch, config("XL"), GIB, kv_cache_memory_bytes=5 * per_image).max_num_seqs == 5
    assert fitted(monkeypatch, config("XL"), GIB, max_num_seqs=7).max_num_seqs == 7


@pytest.mark.parametrize(("window", "expected"), [(0, 2048), (4, 2048), (16, 4352)])
def test_a_step_has_room_for_the_windows_of_all_images(
    monkeypatch: pytest.MonkeyPatch, window: int, expected: int
) -> None:
    assert fitted(monkeypatch, config("B"), GIB, decode_window=window).max_num_batched_tokens == expected
    assert fitted(monkeypatch, config("B"), GIB, max_num_batched_tokens=99).max_num_batched_tokens == 99


def test_the_engine_logs_what_it_compiles(monkeypatch: pytest.MonkeyPatch, class_model_dir: Path) -> None:
    """Unless the user has chosen a level."""
    gpu = SimpleNamespace(is_cpu=lambda: False)
    monkeypatch.setattr(vllm_compat, "current_platform", gpu)
    monkeypatch.delenv("VLLM_LOGGING_LEVEL", raising=False)
    monkeypatch.setattr(environment, "_process_defaults", {})

    def level() -> str | None:
        model = LlamaGenConfig.from_pretrained(class_model_dir)
        return plan_engine(default_flags(), str(class_model_dir), model).environment.get("VLLM_LOGGING_LEVEL")

    environment.set_process_defaults()
    assert level() == "INFO"
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "WARNING")
    assert level() is None
