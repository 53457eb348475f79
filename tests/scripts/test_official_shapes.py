"""`make shapes-test`: its checkpoints have the official names and shapes, and so has its baseline."""

from __future__ import annotations

import psutil
import torch
from scripts.official_shapes.checkpoints import random_gpt, random_vq
from scripts.official_shapes.checks import eager_names
from scripts.official_shapes.memory import PeakMemory

from llamagen_server.bench.eager import EagerGPT
from llamagen_server.hub.catalogue import MODELS
from llamagen_server.model_dir.tensor_files import vq_shapes
from llamagen_tokenizer import CONFIGS
from vllm_llamagen.weights import official_shapes


def test_language_model() -> None:
    config = MODELS["c2i-B-256"].config
    config.n_layer = 2  # for speed
    weights = random_gpt(config)
    assert {name: list(tensor.shape) for name, tensor in weights.items()} == official_shapes(config)
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    assert abs(weights["norm.weight"].float().mean() - 1) < 0.01
    assert abs(weights["output.weight"].float().std() - 0.02) < 0.001
    with torch.device("meta"):
        expected = EagerGPT(config, images=1).state_dict()
    assert {name: t.shape for name, t in eager_names(weights).items()} == {n: t.shape for n, t in expected.items()}


def test_image_tokenizer() -> None:
    for config in CONFIGS.values():
        with torch.device("meta"):
            weights = random_vq(config)
        used = weights.pop("quantize.codebook_used")
        assert used.shape == (65536,)
        assert {name: list(tensor.shape) for name, tensor in weights.items()} == vq_shapes(config)
        assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_peak_memory_counts_what_is_held() -> None:
    before = psutil.Process().memory_info().rss
    with PeakMemory() as memory:
        held = torch.ones(50_000_000)
    assert memory.peak > before + held.nbytes * 0.9
