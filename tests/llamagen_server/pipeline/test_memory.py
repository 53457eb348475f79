"""A model that does not fit into memory is refused before anything is loaded."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from llamagen_server.engine import container
from llamagen_server.engine.arguments import default_flags
from llamagen_server.pipeline import build
from llamagen_server.pipeline.memory import WeightBytes
from vllm_llamagen.vllm_compat import current_platform

pytestmark = pytest.mark.skipif(not current_platform.is_cpu(), reason="a GPU's memory is left to vLLM")
MIB = 2**20


def has(monkeypatch: pytest.MonkeyPatch, available: int, in_container: bool) -> None:
    monkeypatch.setattr(container, "available_memory", lambda: available)
    monkeypatch.setattr(container, "container_memory", lambda root=container.ROOT: available if in_container else None)


def refusal(model: Path, **flags: object) -> str:
    with pytest.raises(ValueError, match="memory is too small") as error:
        build.build_pipeline(build.open_model(model), default_flags(**flags))
    return str(error.value)


def test_estimates_are_the_sizes_of_the_tensors(text_model_dir: Path) -> None:
    weights = WeightBytes.of(build.open_model(text_model_dir))
    tensors = [load_file(text_model_dir / folder / "model.safetensors") for folder in (".", "vq", "text_encoder")]
    sizes = [4 * sum(tensor.numel() for tensor in part.values()) for part in tensors]
    assert weights.model == sizes[0] + sizes[1]
    assert weights.text_encoder == sizes[2]
    half = WeightBytes.of(build.open_model(text_model_dir), "bfloat16", copies=2)
    assert half.model == weights.model  # two copies of half the size


def test_parts_of_a_text_encoder_that_are_not_loaded_do_not_count(text_model_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(text_model_dir, tmp_path / "model")
    before = WeightBytes.of(build.open_model(tmp_path / "model"))
    file = tmp_path / "model" / "text_encoder" / "model.safetensors"
    tensors = load_file(file)
    save_file({**tensors, "decoder.x": next(iter(tensors.values())).clone()}, file)
    assert WeightBytes.of(build.open_model(tmp_path / "model")) == before


def test_too_little_for_the_weights(monkeypatch: pytest.MonkeyPatch, text_model_dir: Path) -> None:
    has(monkeypatch, 1000, in_container=False)
    message = refusal(text_model_dir)
    assert "model needs at least 0.0 GiB (weights 0.0, text encoder 0.0, KV cache of 1 images" in message
    assert message.endswith("are available on this machine")


def test_too_little_for_the_kv_cache_alone(monkeypatch: pytest.MonkeyPatch, text_model_dir: Path) -> None:
    has(monkeypatch, 64 * MIB, in_container=True)
    message = refusal(text_model_dir, max_num_seqs=4000)
    assert "KV cache of 4000 images" in message
    assert "in this container; lower --max-num-seqs (images at a time) or --kv-cache-memory-bytes" in message
    assert "lower" in refusal(text_model_dir, kv_cache_memory_bytes=65 * MIB)


def test_the_default_batch_leaves_memory_to_the_weights(monkeypatch: pytest.MonkeyPatch, text_model_dir: Path) -> None:
    model = build.open_model(text_model_dir)
    weights = WeightBytes.of(model).total
    has(monkeypatch, weights + 16 * MIB, in_container=True)
    plan = build._plan(model, default_flags())
    assert 1 <= plan.arguments.max_num_seqs < 32
    has(monkeypatch, weights + 1000 * MIB, in_container=True)
    assert build._plan(model, default_flags()).arguments.max_num_seqs == 32
