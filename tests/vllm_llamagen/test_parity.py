"""The model on real vLLM against the official code, token for token and logit for logit, in float32."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.vllm_engine import llamagen_engine
from torch import Tensor
from vllm import LLM, SamplingParams
from vllm.model_executor.layers.linear import LinearBase

from vllm_llamagen.condition import TextCondition
from vllm_llamagen.config import LlamaGenConfig

pytestmark = pytest.mark.engine


@dataclass
class Golden:
    """A golden model on vLLM, and what the official code computes with it."""

    llm: LLM
    config: LlamaGenConfig
    expected: dict[str, Tensor]
    condition: TextCondition | None

    def prompt(self, i: int, codes: Tensor | None = None) -> dict[str, Any]:
        """The i-th condition of the reference run, followed by codes that are already known."""
        known = [] if codes is None else codes.tolist()
        if self.condition is None:
            return {"prompt_token_ids": [self.config.codebook_size + int(self.expected["class_ids"][i]), *known]}
        n = int(self.expected["n_valid"][i])
        rows = self.condition(self.expected["caption_embs_raw"][i, :n])
        if not known:
            return {"prompt_embeds": rows}
        return {
            "prompt_embeds": torch.cat([rows, rows.new_zeros(len(known), rows.shape[1])]),
            "prompt_token_ids": [self.config.codebook_size] * n + known,
            "prompt_is_token_ids": [False] * n + [True] * len(known),
        }

    def wrong_tokens(self) -> int:
        """Runs every reference sequence, all scales and conditions in one batch; counts tokens that differ."""
        prompts, params, wanted = [], [], []
        for name, sequences in self.expected.items():
            if not (match := re.fullmatch(r"greedy\.cfg([\d.]+?)(?:_interval(\d+))?", name)):
                continue
            guidance = {"cfg_scale": float(match[1]), "cfg_interval": int(match[2] or -1)}
            for i, sequence in enumerate(sequences):
                prompts.append(self.prompt(i))
                params.append(
                    SamplingParams(temperature=0, max_tokens=len(sequence), detokenize=False, extra_args=guidance)
                )
                wanted.append(sequence)
        assert len(prompts) >= 6
        self.llm.reset_prefix_cache()
        outputs = self.llm.generate(prompts, params, use_tqdm=False)
        got = torch.tensor([output.outputs[0].token_ids for output in outputs])
        return int((got != torch.stack(wanted)).sum())

    def logits(self, i: int, steps: list[int], scale: float) -> Tensor:
        """Logits of image tokens ``steps`` of condition i after the reference codes before them, [steps, codebook]."""
        codes = self.expected["codes"][i]
        params = SamplingParams(
            temperature=0, max_tokens=1, logprobs=-1, detokenize=False, extra_args={"cfg_scale": scale}
        )
        outputs = self.llm.generate([self.prompt(i, codes[:t]) for t in steps], params, use_tqdm=False)
        rows = [output.outputs[0].logprobs[0] for output in outputs]
        return torch.tensor([[row[code].logprob for code in range(self.config.codebook_size)] for row in rows])


def open_golden(name: str, model_dir: Path, golden_dir: Path, expected_file: str) -> Iterator[Golden]:
    tensors = load_file(golden_dir / expected_file)
    expected = {key.removeprefix(f"{name}."): t for key, t in tensors.items() if key.startswith(f"{name}.")}
    config = LlamaGenConfig.from_pretrained(model_dir)
    condition = None
    if config.condition == "text":
        weights = {k: t.float() for k, t in load_file(model_dir / "model.safetensors").items()}
        condition = TextCondition(config, weights)
    with llamagen_engine(model_dir) as llm:
        yield Golden(llm, config, expected, condition)


@pytest.fixture(scope="module")
def class_model(class_model_dir: Path, golden_dir: Path) -> Iterator[Golden]:
    yield from open_golden("tiny_c2i", class_model_dir, golden_dir, "expected.safetensors")


@pytest.fixture(scope="module")
def hd100_model(hd100_model_dir: Path, golden_dir: Path) -> Iterator[Golden]:
    yield from open_golden("tiny_c2i_hd100", hd100_model_dir, golden_dir, "expected.safetensors")


@pytest.fixture(scope="module")
def text_model(text_model_dir: Path, golden_dir: Path) -> Iterator[Golden]:
    yield from open_golden("tiny_t2i", text_model_dir, golden_dir, "expected.safetensors")


@pytest.fixture(scope="module")
def gqa_model(gqa_model_dir: Path, golden_dir: Path) -> Iterator[Golden]:
    yield from open_golden("tiny_c2i_gqa", gqa_model_dir, golden_dir, "expected_gqa.safetensors")


def assert_logits(model: Golden) -> None:
    """Scale 1 shows the conditional stream alone, scale 0 the unconditional one."""
    for i in range(len(model.expected["cond_logits"])):
        count = model.expected["cond_logits"].shape[1]
        steps = model.expected.get("logit_steps", torch.arange(count)).tolist()
        for scale, name in ((1.0, "cond_logits"), (0.0, "uncond_logits")):
            torch.testing.assert_close(model.logits(i, steps, scale), model.expected[name][i], atol=1e-4, rtol=0)


def test_class_model_tokens(class_model: Golden) -> None:
    assert class_model.wrong_tokens() == 0


def test_class_model_logits(class_model: Golden) -> None:
    assert_logits(class_model)


def test_head_dim_100_tokens(hd100_model: Golden) -> None:
    assert hd100_model.wrong_tokens() == 0


def test_head_dim_100_logits(hd100_model: Golden) -> None:
    assert_logits(hd100_model)


def test_text_model_tokens(text_model: Golden) -> None:
    assert set(text_model.expected["n_valid"].tolist()) == {5, 17, 120}
    assert text_model.wrong_tokens() == 0


def test_text_model_logits(text_model: Golden) -> None:
    assert_logits(text_model)


def test_grouped_query_attention_logits(gqa_model: Golden) -> None:
    """The official generate() cannot run such a model; the reference is its full forward."""
    assert_logits(gqa_model)


def test_bad_guidance_is_refused_at_admission_and_the_engine_goes_on(class_model: Golden) -> None:
    from vllm.exceptions import VLLMValidationError

    for bad in ({"cfg_scale": -1.0}, {"cfg_scale": "4"}, {"cfg_scale": math.nan}, {"cfg_interval": 1.5}):
        with pytest.raises(VLLMValidationError, match=f"{next(iter(bad))} is"):
            class_model.llm.generate([class_model.prompt(0)], SamplingParams(extra_args=bad), use_tqdm=False)
    assert class_model.wrong_tokens() == 0


def test_the_default_scale_is_that_of_the_model_directory(class_model: Golden) -> None:
    params = SamplingParams(temperature=0, max_tokens=64, detokenize=False)
    [output] = class_model.llm.generate([class_model.prompt(0)], params, use_tqdm=False)
    assert torch.equal(torch.tensor(output.outputs[0].token_ids), class_model.expected["greedy.cfg4.0"][0].long())


def test_a_single_stream_is_the_conditional_model(class_model_dir: Path, class_model: Golden) -> None:
    from vllm.exceptions import VLLMValidationError

    def params(scale: float) -> SamplingParams:
        return SamplingParams(temperature=0, max_tokens=64, detokenize=False, extra_args={"cfg_scale": scale})

    prompts = [class_model.prompt(i) for i in range(2)]
    with llamagen_engine(class_model_dir, guidance_streams=1) as llm:
        outputs = llm.generate(prompts, params(1.0), use_tqdm=False)
        with pytest.raises(VLLMValidationError, match="this server runs without guidance"):
            llm.generate(prompts, params(4.0), use_tqdm=False)
    codes = torch.tensor([output.outputs[0].token_ids for output in outputs])
    assert torch.equal(codes, class_model.expected["greedy.cfg1.0"].long())


def test_linear_layers_take_vllms_quantization(class_model_dir: Path) -> None:
    def methods(model: Any) -> set[str]:
        layers = (m for m in model.modules() if isinstance(m, LinearBase))
        return {type(layer.quant_method).__name__ for layer in layers}

    with llamagen_engine(class_model_dir, dtype="bfloat16", quantization="fp8_per_channel") as llm:
        assert llm.apply_model(methods) == [{"Fp8PtpcOnlineLinearMethod"}]
        params = SamplingParams(temperature=0, max_tokens=64, detokenize=False, extra_args={"cfg_scale": 4.0})
        [output] = llm.generate([{"prompt_token_ids": [515]}], params, use_tqdm=False)
        assert len(set(output.outputs[0].token_ids)) > 8


class TestMutations:
    """The parity test fails when guidance, the rotary table or the unconditional rows are broken on purpose."""

    def test_guidance_ignored(self, class_model: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
        from vllm_llamagen import guidance

        mix = guidance.mix
        monkeypatch.setattr(guidance, "mix", lambda logits, scale, size: mix(logits, torch.ones_like(scale), size))
        assert class_model.wrong_tokens() > 0

    def test_interval_off_by_one(self, class_model: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
        from vllm_llamagen.guidance import Guidance

        scale_at = Guidance.scale_at
        monkeypatch.setattr(Guidance, "scale_at", lambda self, token: scale_at(self, token + 1))
        assert class_model.wrong_tokens() > 0

    @pytest.mark.parametrize("mutation", ["condition row not zero", "rows and columns swapped", "off by one"])
    def test_rotary_table(self, class_model: Golden, mutation: str) -> None:
        [table] = class_model.llm.apply_model(lambda model: model.model.cos_sin)
        original = table.clone()
        if mutation == "condition row not zero":
            table[0, :, 0] = 1
        elif mutation == "off by one":
            table[1:] = original[1:].roll(-1, dims=0)
        else:
            table[1:] = original[1:].unflatten(0, (8, 8)).transpose(0, 1).flatten(0, 1)
        try:
            assert class_model.wrong_tokens() > 0
        finally:
            table.copy_(original)
        assert class_model.wrong_tokens() == 0

    def test_first_unconditional_rows_instead_of_the_last(self, text_model: Golden) -> None:
        assert text_model.condition is not None
        rows = text_model.condition.uncond_embedding
        original = rows.clone()
        rows.copy_(original.roll(60, dims=0))
        try:
            assert text_model.wrong_tokens() > 0
        finally:
            rows.copy_(original)
