"""The training model computes what the official code computes."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from demo.generate import Sampling, filter_logits, generate_codes
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
    known = {f.name for f in fields(GPTConfig)}
    model = GPT(GPTConfig(**{k: v for k, v in arguments.items() if k in known}))
    weights = torch.load(golden_dir / "tiny_t2i.pt", weights_only=True)["model"]
    model.load_state_dict({k: v.float() for k, v in weights.items()})
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def captions(golden: Golden) -> tuple[Tensor, Tensor]:
    """Text and mask, padded on the left to the longest caption."""
    raw, counts = golden["tiny_t2i.caption_embs_raw"], golden["tiny_t2i.n_valid"].tolist()
    text, valid = torch.zeros(raw.shape), torch.zeros(raw.shape[:2], dtype=torch.bool)
    for i, count in enumerate(counts):
        text[i, raw.shape[1] - count :] = raw[i, :count]
        valid[i, raw.shape[1] - count :] = True
    return text, valid


@pytest.mark.parametrize("dropped", [False, True])
def test_logits(gpt: GPT, golden: Golden, captions: tuple[Tensor, Tensor], dropped: bool) -> None:
    text, valid = captions
    codes, steps = golden["tiny_t2i.codes"].long(), golden["tiny_t2i.logit_steps"].long()
    logits = gpt(text, valid, codes[:, :-1], torch.full((len(text),), dropped))
    wanted = golden["tiny_t2i.uncond_logits" if dropped else "tiny_t2i.cond_logits"]
    torch.testing.assert_close(logits[:, steps], wanted, atol=5e-5, rtol=0)


@pytest.mark.parametrize("scale", [7.5, 1.0])
def test_greedy_codes(gpt: GPT, golden: Golden, captions: tuple[Tensor, Tensor], scale: float) -> None:
    codes = generate_codes(gpt, *captions, Sampling(cfg_scale=scale, temperature=0))
    assert torch.equal(codes, golden[f"tiny_t2i.greedy.cfg{scale}"].long())


def test_shorter_padding_gives_the_same_codes(gpt: GPT, golden: Golden, captions: tuple[Tensor, Tensor]) -> None:
    text, valid = (x[:2, -17:] for x in captions)
    codes = generate_codes(gpt, text, valid, Sampling(cfg_scale=7.5, temperature=0))
    assert torch.equal(codes, golden["tiny_t2i.greedy.cfg7.5"][:2].long())


def test_filters_are_the_official_ones(golden: Golden) -> None:
    logits, checked = golden["sample.logits"], 0
    for name, wanted in golden.items():
        if name.startswith("sample.probs."):
            temperature, top_k, top_p = (part[1:] for part in name.removeprefix("sample.probs.").split("_"))
            sampling = Sampling(1.0, float(temperature), int(top_k), float(top_p))
            torch.testing.assert_close(filter_logits(logits, sampling).softmax(-1), wanted, atol=1e-6, rtol=0)
            checked += 1
    assert checked
