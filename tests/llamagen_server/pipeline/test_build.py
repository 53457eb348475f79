"""How the stages and the engine are placed on a CPU, and the dtype of the decoder."""

from __future__ import annotations

import os
import random
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from demo.patches import patch_table
from demo.scenes import render, sample_scene
from vllm.platforms import current_platform

from llamagen_server.engine import arguments as vllm_args
from llamagen_server.model_dir import ModelDir
from llamagen_server.pipeline import build as loading
from llamagen_tokenizer import load_vq, to_uint8
from vllm_llamagen.config import LlamaGenConfig

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What the number of torch's threads was set to."""
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    return asked


def decoder_dtype(model: ModelDir, choice: str = "auto") -> torch.dtype:
    stage = loading.image_tokenizer(model, CPU, choice)
    return next(stage._vq.decoder.parameters()).dtype


@pytest.mark.parametrize(("units", "dtype"), [("avx512_bf16", torch.bfloat16), ("avx2", torch.float32)])
def test_auto_is_what_the_tokenizer_asks_for_where_there_are_units(
    units: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, class_model_dir: Path
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {units: True})
    assert decoder_dtype(loading.open_model(None)) == dtype  # its config says bfloat16
    assert decoder_dtype(loading.open_model(class_model_dir)) == torch.float32  # as the official ones
    assert decoder_dtype(loading.open_model(None), "float32") == torch.float32
    assert decoder_dtype(loading.open_model(class_model_dir), "bfloat16") == torch.bfloat16


def test_the_demo_in_bfloat16_is_close_to_float32() -> None:
    """On pictures as it was trained on; docs/demo.md has the figures."""
    rng = random.Random(0)
    scenes = [render(sample_scene(rng)) for _ in range(8)]
    codes = torch.from_numpy(np.stack([patch_table().codes(scene) for scene in scenes])).view(-1, 8, 8)
    path = loading.open_model(None).vq_path
    exact, rounded = load_vq(path).decode(codes), load_vq(path).decode_in(torch.bfloat16).decode(codes)
    error = (exact.clamp(-1, 1) - rounded.clamp(-1, 1)).square().mean()
    assert -10 * torch.log10(error / 4) > 50
    steps = (to_uint8(exact).int() - to_uint8(rounded).int()).abs()
    assert steps.float().mean() < 0.5


@pytest.mark.parametrize(("cores", "small", "calls"), [(3, 2**23, 3), (3, 0, 1), (8, 2**23, 1)])
def test_a_small_decoder_takes_one_thread_for_each_picture_on_few_cores(
    cores: int, small: int, calls: int, threads: list[int], monkeypatch: pytest.MonkeyPatch, class_model_dir: Path
) -> None:
    monkeypatch.setattr(vllm_args, "cores", lambda: cores)
    monkeypatch.setattr(vllm_args, "SMALL", small)
    stage = loading.image_tokenizer(loading.open_model(class_model_dir), CPU)
    assert stage._threads._max_workers == calls
    assert threads == ([1] if calls > 1 else [])


@pytest.mark.parametrize(
    ("cores", "dim", "given", "threads"),
    [(2, 64, None, "1"), (2, 768, None, "2"), (4, 768, None, "4"), (8, 768, None, None), (2, 64, "2", "2")],
)
def test_threads_of_the_engine(
    cores: int, dim: int, given: str | None, threads: str | None, monkeypatch: pytest.MonkeyPatch, class_model_dir: Path
) -> None:
    if not current_platform.is_cpu():
        pytest.skip("a GPU's engine needs none")
    monkeypatch.setattr(vllm_args, "cores", lambda: cores)
    config = LlamaGenConfig(
        architectures=["LlamaGenForCausalLM"], dim=dim, n_head=dim // 64, n_kv_head=dim // 64, ffn_hidden_dim=dim
    )
    with mock.patch.dict(os.environ):
        os.environ.pop("VLLM_CPU_OMP_THREADS_BIND", None)
        os.environ.pop("OMP_NUM_THREADS", None)
        if given:
            os.environ["OMP_NUM_THREADS"] = given
        arguments = vllm_args.engine_args(vllm_args.default_flags(), str(class_model_dir), config)
        assert os.environ.get("OMP_NUM_THREADS") == threads
        larger = vllm_args.engine_args(vllm_args.default_flags(block_size=128), str(class_model_dir), config)
    assert (arguments.distributed_executor_backend is not None) == (threads is not None)
    assert arguments.block_size == 32
    assert larger.block_size == 128
