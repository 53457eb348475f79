"""The baseline is fair: it computes what the official code computes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llamagen_server.bench.eager import EagerGPT, sample
from llamagen_server.pipeline.build import open_model


@pytest.mark.parametrize("name", ["tiny_c2i", "tiny_c2i_hd100"])
def test_greedy_codes_equal_the_official_ones(
    name: str, golden_dir: Path, class_model_dir: Path, hd100_model_dir: Path
) -> None:
    folders = {"tiny_c2i": class_model_dir, "tiny_c2i_hd100": hd100_model_dir}
    config = open_model(folders[name]).config
    expected = load_file(golden_dir / "expected.safetensors")
    official = torch.load(golden_dir / f"{name}.pt", weights_only=True)["model"]
    classes = expected[f"{name}.class_ids"].long()
    model = EagerGPT(config, len(classes))
    renamed = {
        key.replace("cls_embedding.embedding_table", "cls_embedding").replace("feed_forward.", ""): value.float()
        for key, value in official.items()
        if key not in ("freqs_cis",) and "kv_cache" not in key
    }
    model.load_state_dict(renamed)
    checked = 0
    for key, codes in expected.items():
        if match := re.fullmatch(rf"{name}\.greedy\.cfg([\d.]+)", key):
            assert torch.equal(model.generate(classes, float(match[1]), 0, temperature=0), codes.long()), key
            first = model.generate(classes, float(match[1]), 0, temperature=0, tokens=3)
            assert torch.equal(first, codes[:, :3].long()), key
            checked += 1
    assert checked


def test_only_the_top_k_are_sampled() -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 100).expand(500, 100)
    assert {*sample(logits, 5, 1.0).tolist()} == {*logits[0].topk(5).indices.tolist()}
