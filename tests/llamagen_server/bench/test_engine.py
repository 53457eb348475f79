"""``llamagen bench engine`` with real vLLM, on images of four codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llamagen_server.bench import roofline as floor
from vllm_llamagen.config import LlamaGenConfig


def test_a_run(tmp_path: Path) -> None:
    result = tmp_path / "r.json"
    command = "-m llamagen_server bench engine --size B --image-size 32 --batch 1 2 --repeat 1 --dtype float32"
    words = [*command.split(), "--enforce-eager", "--baseline", "eager", "--profile", "--save-result", str(result)]
    run = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    saved = json.loads(result.read_text())
    for batch, row in zip((1, 2), saved["rows"], strict=True):
        assert row["batch"] == batch
        assert row["images_per_s"] == pytest.approx(batch / row["engine_s"])
        assert row["ratio"] == pytest.approx(row["eager_s"] / row["engine_s"])
        assert row["floor_multiple"] == pytest.approx(row["engine_s"] / row["floor_s"])
        assert row["floor_s"] < row["engine_s"]
    parts = {"scheduling", "model", "logits", "guidance", "sampling", "output", "rest"}
    assert set(saved["profile"]) == parts
    assert all(milliseconds > 0 for milliseconds in saved["profile"].values())
    assert max(saved["profile"], key=saved["profile"].__getitem__) == "model"


def test_the_floor_is_the_slower_of_bytes_and_operations() -> None:
    config = LlamaGenConfig(
        dim=64, n_layer=2, n_head=2, n_kv_head=2, ffn_hidden_dim=128, grid_size=2, codebook_size=256
    )
    weights = 2 * (4 * 64 * 64 + 3 * 64 * 128) + 64 * 256
    cached = 2 * 2 * 64 * 2 * (1 + 2 + 3 + 4)  # keys and values, layers, dim, two streams, at each of four steps
    slow_memory = floor.Machine(bytes_per_s=1e3, flops_per_s=1e30)
    assert floor.floor_seconds(config, 1, 4, slow_memory) == pytest.approx(4 * (4 * weights + cached) / 1e3)
    slow_products = floor.Machine(bytes_per_s=1e30, flops_per_s=1e3)
    operations = 2 * 2 * (4 * weights + 2 * 2 * 64 * (1 + 2 + 3 + 4))
    assert floor.floor_seconds(config, 1, 4, slow_products) == pytest.approx(operations / 1e3)
    assert floor.measure("cpu", torch.float32).bytes_per_s > 0
