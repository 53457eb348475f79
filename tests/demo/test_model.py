"""The training model computes what the official code computes."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from demo.model import GPT, GPTConfig
from safetensors.torch import load_file
from torch import Tensor

Golden = dict[str, Tensor]


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> Golden:
    return load_file(golden_dir / "expected.safetensors")


@pytest.fixture(scope="module")
def gpt(golden_dir: Path) -> GPT:
    arguments = json.loads((golden_dir / "tiny_t2i.json").read_text())["model_args"]
    names = {f.name for f in fields(GPTConfig)}
    model = GPT(GPTConfig(**{k: v for k, v in arguments.items() if k in names}))
    weights = torch.load(golden_dir / "tiny_t2i.pt", weights_only=True)["model"]
    model.load_state_dict({k: v.float() for k, v in weights.items()})
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def captions(golden: Golden) -> tuple[Tensor, Tensor]:
    """Hidden states and mask of the captions, padded on the left to the longest one."""
    raw, counts = golden["tiny_t2i.caption_embs_raw"], golden["tiny_t2i.n_valid"].tolist()
    text, valid = torch.zeros(raw.shape), torch.zeros(raw.shape[:2], dtype=torch.bool)
    for i, count in enumerate(counts):
        text[i, raw.shape[1] - count :] = raw[i, :count]
        valid[i, raw.shape[1] - count :] = True
    return text, valid


@pytest.mark.parametrize("dropped", [False, True])
def test_logits_equal_the_official_ones(
    gpt: GPT, golden: Golden, captions: tuple[Tensor, Tensor], dropped: bool
) -> None:
    text, valid = captions
    codes, steps = golden["tiny_t2i.codes"].long(), golden["tiny_t2i.logit_steps"].long()
    logits = gpt(text, valid, codes[:, :-1], torch.full((len(text),), dropped))
    expected = golden["tiny_t2i.uncond_logits" if dropped else "tiny_t2i.cond_logits"]
    torch.testing.assert_close(logits[:, steps], expected, atol=5e-5, rtol=0)


def test_shorter_padding_gives_the_same_logits(gpt: GPT, golden: Golden, captions: tuple[Tensor, Tensor]) -> None:
    text, valid = captions
    codes = golden["tiny_t2i.codes"].long()[:2, :-1]
    whole, cut = gpt(text[:2], valid[:2], codes), gpt(text[:2, -17:], valid[:2, -17:], codes)
    torch.testing.assert_close(whole, cut, atol=5e-5, rtol=0)
