"""Decode windows on vLLM's V2 model runner: the images and log-probabilities of decoding one by one, in fewer steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.golden import Golden, StartEngine, open_golden
from vllm import LLM, RequestOutput, SamplingParams

pytestmark = pytest.mark.engine

MIXED = [
    {"temperature": 0, "cfg_scale": 1.0},
    {"temperature": 1.0, "cfg_scale": 4.0, "top_k": 50},
    {"temperature": 0.7, "cfg_scale": 3.0, "top_p": 0.8},
    {"temperature": 0.3, "cfg_scale": 2.0, "cfg_schedule": "linear"},
    {"temperature": 0.5, "cfg_scale": 6.0, "cfg_interval": 20},
    {"temperature": 1.0, "cfg_scale": 0.0},
    {"temperature": 1.0, "cfg_scale": 4.0, "cfg_min_p": 0.1},
    {"temperature": 0.1, "cfg_scale": 7.5, "cfg_schedule": "cosine", "cfg_interval": 40},
    {"temperature": 1.0, "cfg_scale": 1.5, "top_k": 5, "top_p": 0.5},
    {"temperature": 0.2, "cfg_scale": 10.0},
    {"temperature": 0.05, "cfg_scale": 4.0},
    {"temperature": 1.3, "cfg_scale": 1.0},
    {"temperature": 0, "cfg_scale": 4.0, "cfg_interval": 0},
]
"""Neighbours in a batch that differ in everything a request may ask for."""
GUIDANCE = ("cfg_scale", "cfg_interval", "cfg_schedule", "cfg_min_p", "start_index", "forced_tokens")


def params(seed: int, **asked: Any) -> SamplingParams:
    extra_args = {name: asked.pop(name) for name in GUIDANCE if name in asked}
    return SamplingParams(**{"seed": seed, "max_tokens": 64, "detokenize": False, "extra_args": extra_args, **asked})


def codes(outputs: Sequence[RequestOutput]) -> list[list[int]]:
    return [list(output.outputs[0].token_ids) for output in outputs]


def logprobs(outputs: Sequence[RequestOutput]) -> list[list[dict[int, float]]]:
    return [
        [{code: value.logprob for code, value in row.items()} for row in output.outputs[0].logprobs or []]
        for output in outputs
    ]


def metric(llm: LLM, name: str) -> float:
    [value] = [metric.value for metric in llm.get_metrics() if metric.name == name]
    return float(value)


@pytest.fixture(scope="module", params=[8, *(pytest.param(n, marks=pytest.mark.long) for n in (4, 16))])
def window(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module")
def class_window(start_engine: StartEngine, class_model_dir: Path, golden_dir: Path, window: int) -> Golden:
    flags = {"decode_window": window, "decode_window_rule": "fixed", "disable_log_stats": False}
    return open_golden(start_engine, "tiny_c2i", class_model_dir, golden_dir / "expected.safetensors", **flags)


@pytest.fixture(scope="module")
def text_window(start_engine: StartEngine, text_model_dir: Path, golden_dir: Path, window: int) -> Golden:
    """Its window changes with the number of images in a step."""
    flags = {"decode_window": window, "disable_log_stats": False}
    return open_golden(start_engine, "tiny_t2i", text_model_dir, golden_dir / "expected.safetensors", **flags)


def test_greedy_tokens_are_those_of_the_official_code(class_window: Golden, text_window: Golden) -> None:
    assert class_window.wrong_tokens() == 0
    assert text_window.wrong_tokens() == 0


def test_mixed_neighbours_get_the_images_that_they_get_one_by_one(
    class_model: Golden, class_window: Golden, text_model: Golden, text_window: Golden
) -> None:
    for plain, windowed in ((class_model, class_window), (text_model, text_window)):
        prompts = [plain.prompt(i % 2) for i in range(len(MIXED))]
        asked = [params(7 + i, **kind) for i, kind in enumerate(MIXED)]
        one_by_one = plain.llm.generate(prompts, asked, use_tqdm=False)
        together = windowed.llm.generate(prompts, asked, use_tqdm=False)
        assert codes(together) == codes(one_by_one)


def test_log_probabilities_are_the_same_to_the_last_bit(class_model: Golden, class_window: Golden) -> None:
    prompts = [class_model.prompt(i % 2) for i in range(4)]
    asked = [params(50 + i, temperature=0.8, cfg_scale=1.5 + i, logprobs=2) for i in range(4)]
    plain, windowed = (model.llm.generate(prompts, asked, use_tqdm=False) for model in (class_model, class_window))
    assert codes(windowed) == codes(plain)
    assert logprobs(windowed) == logprobs(plain)
    assert len(logprobs(plain)[0]) == 64


def test_edits_and_continued_images_are_the_same(text_model: Golden, text_window: Golden) -> None:
    known = torch.randint(512, (64,), generator=torch.Generator().manual_seed(3))
    forced = [int(code) if 24 <= i < 40 or i >= 50 else -1 for i, code in enumerate(known)]
    prompts = [text_model.prompt(0, known[:13]), text_model.prompt(1), text_model.prompt(2, known[:63])]
    asked = [
        params(3, cfg_scale=1.5, start_index=13, forced_tokens=forced, max_tokens=51, logprobs=1),
        params(4, cfg_scale=4.0, temperature=0.3, forced_tokens=forced, logprobs=1),
        params(5, cfg_scale=4.0, start_index=63, max_tokens=1, logprobs=1),
    ]
    plain, windowed = (model.llm.generate(prompts, asked, use_tqdm=False) for model in (text_model, text_window))
    assert codes(windowed) == codes(plain)
    assert logprobs(windowed) == logprobs(plain)
    assert codes(windowed)[1][50:] == known[50:].tolist()


def test_forced_tokens_are_guessed(text_window: Golden, window: int) -> None:
    """An image whose tokens are all forced takes as few steps as there can be."""
    known = torch.randint(512, (64,), generator=torch.Generator().manual_seed(4)).tolist()
    drafts, accepted = "vllm:spec_decode_num_drafts", "vllm:spec_decode_num_accepted_tokens"
    before = [metric(text_window.llm, name) for name in (drafts, accepted)]
    [image] = text_window.llm.generate([text_window.prompt(0)], params(1, forced_tokens=known), use_tqdm=False)
    steps, right = (metric(text_window.llm, name) - old for name, old in zip((drafts, accepted), before, strict=True))
    assert codes([image]) == [known]
    assert steps <= -(-63 // (1 + window)) + 1
    assert right >= 63 - steps


def test_images_that_end_early_and_preempted_ones_are_the_same(
    start_engine: StartEngine, text_model_dir: Path, text_model: Golden, window: int
) -> None:
    """Too few KV blocks for all images; every other one asks for fewer codes."""
    flags = {"decode_window": window, "num_gpu_blocks_override": 14, "max_num_batched_tokens": 190}
    crowded = replace(text_model, llm=start_engine(text_model_dir, disable_log_stats=False, **flags))
    prompts = [text_model.prompt(i % 3) for i in range(16)]
    asked = [params(i, cfg_scale=float(i % 5), max_tokens=64 - 4 * (i % 2) * i) for i in range(16)]
    apart = text_model.llm.generate(prompts, asked, use_tqdm=False)
    together = crowded.llm.generate(prompts, asked, use_tqdm=False)
    assert codes(together) == codes(apart)
    assert metric(crowded.llm, "vllm:num_preemptions") >= 10
