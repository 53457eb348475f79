"""The comparison of the patch table with a learnt codebook: a tiny one end to end, and what it measures with."""

from __future__ import annotations

import logging
import random
from pathlib import Path

import pytest
import torch
from demo.emoji.train_vq import prepare
from demo.shapes.patches import patch_table
from demo.studies.learned_codebook import patches, reconstructions, scene

from demo.studies import learned_codebook
from llamagen_tokenizer.config import VQConfig

VQ = VQConfig(64, 4, (1, 1, 1), (2, 1, 1), z_channels=32, ch=32, num_res_blocks=1)


def test_the_patch_table_decodes_what_it_encodes() -> None:
    encode, decode, features = patches()
    rng = random.Random(0)
    images = [scene(rng) for _ in range(4)]
    assert len(features) == len(patch_table())
    assert torch.allclose(decode(encode(images)), prepare(images, VQ), atol=1e-5)


def test_the_judge_reads_small_images() -> None:
    encode, decode, _ = patches()
    assert reconstructions(encode, decode, 40)["all"] >= 0.95


@pytest.mark.slow
def test_a_tiny_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("demo.emoji.train_vq.CONFIG", VQ)
    monkeypatch.setattr("demo.emoji.train_vq.BATCHES", {4: 2})
    monkeypatch.setattr(learned_codebook, "SCALES", (1.0, 4.0))
    caplog.set_level(logging.INFO)
    sizes = ["--vq-steps", "2", "--steps", "1", "--captions", "2"]
    config = '{"dim": 32, "n_layer": 1, "n_head": 2, "caption_dim": 32}'
    monkeypatch.setattr("sys.argv", ["learned_codebook", "--out", str(tmp_path), *sizes, "--config", config])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        learned_codebook.main()
    finally:
        torch.set_num_threads(threads)
    for name in ("patches", "learnt"):
        assert f"{name}, reconstructions: {{'all'" in caplog.text
        assert f"{name}, cfg_scale 4: {{'all'" in caplog.text
