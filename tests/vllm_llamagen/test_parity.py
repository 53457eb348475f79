"""The model on real vLLM against the official code, token for token and logit for logit, in float32."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.golden import Golden, StartEngine
from torch import Tensor
from vllm import SamplingParams

from vllm_llamagen import runner_v1, runner_v2
from vllm_llamagen.branch_logprobs import CONDITIONAL, UNCONDITIONAL
from vllm_llamagen.guidance import Guidance, mix_branches
from vllm_llamagen.model import LlamaGenForCausalLM
from vllm_llamagen.vllm_compat import LinearBase, VLLMValidationError, current_platform

pytestmark = pytest.mark.engine


def assert_logits(model: Golden) -> None:
    """Scale 1 shows the conditional branch alone, scale 0 the unconditional one."""
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


@pytest.mark.skipif(not current_platform.is_cpu(), reason="heads are joined on a CPU only")
def test_both_layouts_of_the_cache_are_compared(class_model: Golden, hd100_model: Golden, gqa_model: Golden) -> None:
    """Heads of both branches joined, joined and padded, and side by side."""

    def heads(model: Any) -> tuple[int, int]:
        attention = model.model.layers[0].attention.attn
        return attention.num_kv_heads, attention.head_size

    found = [model.llm.apply_model(heads)[0] for model in (class_model, hd100_model, gqa_model)]
    assert found == [(4, 64), (2, 224), (4, 32)]


def test_bad_guidance_is_refused_at_admission_and_the_engine_goes_on(class_model: Golden) -> None:
    for bad in ({"cfg_scale": -1.0}, {"cfg_scale": "4"}, {"cfg_scale": math.nan}, {"cfg_interval": 1.5}):
        with pytest.raises(VLLMValidationError, match=f"{next(iter(bad))} is"):
            class_model.llm.generate([class_model.prompt(0)], SamplingParams(extra_args=bad), use_tqdm=False)
    assert class_model.wrong_tokens() == 0


def test_the_default_scale_is_that_of_the_model_directory(class_model: Golden) -> None:
    params = SamplingParams(temperature=0, max_tokens=64, detokenize=False)
    [output] = class_model.llm.generate([class_model.prompt(0)], params, use_tqdm=False)
    assert torch.equal(torch.tensor(output.outputs[0].token_ids), class_model.expected["greedy.cfg4.0"][0].long())


def test_a_single_branch_is_the_conditional_model(
    start_engine: StartEngine, class_model_dir: Path, class_model: Golden
) -> None:
    def params(scale: float) -> SamplingParams:
        return SamplingParams(temperature=0, max_tokens=64, detokenize=False, extra_args={"cfg_scale": scale})

    prompts = [class_model.prompt(i) for i in range(2)]
    llm = start_engine(class_model_dir, cfg_branches=1)
    outputs = llm.generate(prompts, params(1.0), use_tqdm=False)
    with pytest.raises(VLLMValidationError, match="this server runs without guidance"):
        llm.generate(prompts, params(4.0), use_tqdm=False)
    codes = torch.tensor([output.outputs[0].token_ids for output in outputs])
    assert torch.equal(codes, class_model.expected["greedy.cfg1.0"].long())


def test_linear_layers_take_vllms_quantization(start_engine: StartEngine, class_model_dir: Path) -> None:
    def methods(model: Any) -> set[str]:
        layers = (m for m in model.modules() if isinstance(m, LinearBase))
        return {type(layer.quant_method).__name__ for layer in layers}

    llm = start_engine(class_model_dir, dtype="bfloat16", quantization="fp8_per_channel")
    assert llm.apply_model(methods) == [{"Fp8PtpcOnlineLinearMethod"}]
    params = SamplingParams(temperature=0, max_tokens=64, detokenize=False, extra_args={"cfg_scale": 4.0})
    [output] = llm.generate([{"prompt_token_ids": [515]}], params, use_tqdm=False)
    assert len(set(output.outputs[0].token_ids)) > 8


def continued(model: Golden, i: int, name: str, prefix: int, **extra_args: Any) -> Tensor:
    """The rest of a reference sequence, sampled after a prefix of it."""
    codes = model.expected[f"greedy.{name}"][i]
    extra_args = {"start_index": prefix, **extra_args}
    params = SamplingParams(temperature=0, max_tokens=len(codes) - prefix, detokenize=False, extra_args=extra_args)
    [output] = model.llm.generate([model.prompt(i, codes[:prefix])], params, use_tqdm=False)
    return torch.tensor(output.outputs[0].token_ids)


@pytest.mark.parametrize("prefix", [1, 8, 13, 40, 63])
def test_a_continued_image_is_the_same_image(class_model: Golden, text_model: Golden, prefix: int) -> None:
    for i in range(2):
        rest = continued(class_model, i, "cfg4.0", prefix, cfg_scale=4.0)
        assert torch.equal(rest, class_model.expected["greedy.cfg4.0"][i, prefix:].long())
        rest = continued(class_model, i, "cfg1.5_interval10", prefix, cfg_scale=1.5, cfg_interval=10)
        assert torch.equal(rest, class_model.expected["greedy.cfg1.5_interval10"][i, prefix:].long())
        rest = continued(text_model, i, "cfg7.5", prefix, cfg_scale=7.5)
        assert torch.equal(rest, text_model.expected["greedy.cfg7.5"][i, prefix:].long())


def test_forced_tokens_are_taken_and_the_model_continues_from_them(class_model: Golden) -> None:
    """Every second token is forced to the reference; the sampled ones between them must equal it."""
    codes = class_model.expected["greedy.cfg4.0"][0].long()
    forced = torch.where(torch.arange(64) % 2 == 0, codes, -1)
    other = class_model.expected["greedy.cfg4.0"][1].long()
    prompts = [class_model.prompt(0)] * 2
    params = [
        SamplingParams(
            temperature=0, max_tokens=64, detokenize=False, extra_args={"cfg_scale": 4.0, "forced_tokens": f}
        )
        for f in (forced.tolist(), other.tolist()[:32])
    ]
    first, second = class_model.llm.generate(prompts, params, use_tqdm=False)
    assert torch.equal(torch.tensor(first.outputs[0].token_ids), codes)
    assert torch.equal(torch.tensor(second.outputs[0].token_ids)[:32], other[:32])
    outside = {"cfg_scale": 4.0, "forced_tokens": [512]}  # outside the codebook: ignored, and the engine lives
    params = SamplingParams(temperature=0, max_tokens=64, detokenize=False, extra_args=outside)
    [third] = class_model.llm.generate(prompts[:1], params, use_tqdm=False)
    assert torch.equal(torch.tensor(third.outputs[0].token_ids), codes)


def test_compiled_text_model_tokens(start_engine: StartEngine, text_model_dir: Path, text_model: Golden) -> None:
    """A server's default: torch.compile, with the positions of a text model."""
    compiled = replace(text_model, llm=start_engine(text_model_dir, enforce_eager=False))
    assert compiled.wrong_tokens() == 0


def test_preempted_images_are_the_same(start_engine: StartEngine, text_model_dir: Path, text_model: Golden) -> None:
    """Too few KV blocks for all images, and too few tokens in a step for all prompts; greedy and seeded."""
    flags = {"num_gpu_blocks_override": 14, "max_num_batched_tokens": 190, "disable_log_stats": False}
    crowded = replace(text_model, llm=start_engine(text_model_dir, **flags))
    assert crowded.wrong_tokens() == 0
    prompts = [text_model.prompt(i % 3) for i in range(16)]
    params = [
        SamplingParams(seed=i, max_tokens=64, detokenize=False, extra_args={"cfg_scale": float(i)}) for i in range(16)
    ]
    apart = [text_model.llm.generate([p], [q], use_tqdm=False)[0] for p, q in zip(prompts, params, strict=True)]
    together = crowded.llm.generate(prompts, params, use_tqdm=False)
    assert [o.outputs[0].token_ids for o in together] == [o.outputs[0].token_ids for o in apart]
    [preemptions] = [m.value for m in crowded.llm.get_metrics() if m.name == "vllm:num_preemptions"]
    assert preemptions >= 10


def test_asking_for_more_codes_than_an_image_has_does_no_harm(text_model: Golden) -> None:
    params = SamplingParams(temperature=0, max_tokens=100, detokenize=False)
    [output] = text_model.llm.generate([text_model.prompt(0)], params, use_tqdm=False)
    assert len(output.outputs[0].token_ids) == 100
    assert text_model.wrong_tokens() == 0


class TestMutations:
    """The parity test fails when guidance, the rotary table or the unconditional embedding is broken on purpose."""

    def test_guidance_ignored(self, class_model: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
        runner = runner_v2 if class_model.llm.llm_engine.vllm_config.use_v2_model_runner else runner_v1
        monkeypatch.setattr(runner, "mix_branches", lambda rows, scale: mix_branches(rows, torch.ones_like(scale)))
        assert class_model.wrong_tokens() > 0

    def test_interval_off_by_one(self, class_model: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
        scales = Guidance.scales
        monkeypatch.setattr(Guidance, "scales", lambda self, num_tokens: [*scales(self, num_tokens)[1:], 1.0])
        assert class_model.wrong_tokens() > 0

    def test_positions_of_text_off_by_one(self, text_model: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
        positions = LlamaGenForCausalLM.get_mrope_input_positions

        def moved(*args: Any, **kwargs: Any) -> tuple[Tensor, int]:
            rows, delta = positions(*args, **kwargs)
            return rows, delta + 1

        monkeypatch.setattr(LlamaGenForCausalLM, "get_mrope_input_positions", moved)
        assert text_model.wrong_tokens() > 0

    def test_start_index_ignored(self, class_model: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
        expected = class_model.expected["greedy.cfg1.5_interval10"][0, 8:].long()
        guidance = {"cfg_scale": 1.5, "cfg_interval": 10}
        assert torch.equal(continued(class_model, 0, "cfg1.5_interval10", 8, **guidance), expected)
        read = Guidance.from_params
        mutated = classmethod(lambda cls, *args: read(*args)._replace(start_index=0))
        monkeypatch.setattr(Guidance, "from_params", mutated)
        assert not torch.equal(continued(class_model, 0, "cfg1.5_interval10", 8, **guidance), expected)

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

    def test_unconditional_rows_from_the_start_instead_of_the_end(self, text_model: Golden) -> None:
        assert text_model.projection is not None
        rows = text_model.projection.uncond_embedding
        original = rows.clone()
        rows.copy_(original.roll(60, dims=0))
        try:
            assert text_model.wrong_tokens() > 0
        finally:
            rows.copy_(original)


@pytest.mark.parametrize("name", ["class_model", "text_model"])
def test_log_probabilities_of_the_branches(request: pytest.FixtureRequest, name: str) -> None:
    """Of the reference codes, which are forced, in a batch with requests that want none, or the most likely codes."""
    model: Golden = request.getfixturevalue(name)
    expected = model.expected
    count = expected["cond_logits"].shape[1]
    steps = expected.get("logit_steps", torch.arange(count)).long()
    codes = expected["codes"].long()
    prompts, params = [], []
    for i, scale in enumerate((0.5, 4.0, 7.5)[: len(codes)]):
        guidance = {"cfg_scale": scale, "cfg_interval": 9}
        forced = {"forced_tokens": codes[i].tolist(), "branch_logprobs": True}
        for number, extra in ((2, guidance | forced), (2, guidance), (None, guidance)):
            prompts.append(model.prompt(i))
            params.append(
                SamplingParams(temperature=0, max_tokens=64, logprobs=number, detokenize=False, extra_args=extra)
            )
    outputs = model.llm.generate(prompts, params, use_tqdm=False)
    for i, code in enumerate(codes):
        rows = outputs[3 * i].outputs[0].logprobs
        for key, branch in ((CONDITIONAL, "cond_logits"), (UNCONDITIONAL, "uncond_logits")):
            got = torch.tensor([row[key].logprob for row in rows])[steps]
            wanted = expected[branch][i].log_softmax(-1).gather(1, code[steps, None])[:, 0]
            torch.testing.assert_close(got, wanted, atol=1e-4, rtol=0)
        assert all(min(row) >= 0 and len(row) == 2 for row in outputs[3 * i + 1].outputs[0].logprobs)
        assert outputs[3 * i + 2].outputs[0].logprobs is None


def test_log_probabilities_of_the_branches_need_their_columns(class_model: Golden) -> None:
    for number in (None, 0, 1, 3):
        params = SamplingParams(logprobs=number, extra_args={"branch_logprobs": True})
        with pytest.raises(VLLMValidationError, match=f"branch_logprobs needs logprobs 2, not {number}"):
            class_model.llm.generate([class_model.prompt(0)], params, use_tqdm=False)


@pytest.mark.parametrize("name", ["class_model", "text_model"])
def test_implausible_codes_are_excluded_before_mixing(request: pytest.FixtureRequest, name: str) -> None:
    """Logits of reference steps, each request with a cfg_min_p of its own, some with 0; also beside forced tokens."""
    model: Golden = request.getfixturevalue(name)
    expected = model.expected
    count = expected["cond_logits"].shape[1]
    steps = expected.get("logit_steps", torch.arange(count)).tolist()
    prompts, params, wanted = [], [], []
    for row, step in enumerate(steps[:24]):
        conditional, unconditional = expected["cond_logits"][0][row], expected["uncond_logits"][0][row]
        min_p, scale = (0.0, 0.05, 0.3, 1.0)[row % 4], (1.0, 4.0, 7.5)[row % 3]
        prompts.append(model.prompt(0, expected["codes"][0][:step]))
        guidance = {"cfg_scale": scale, "cfg_min_p": min_p, "branch_logprobs": row % 8 == 1}
        number = 2 if row % 8 == 1 else -1
        params.append(
            SamplingParams(temperature=0, max_tokens=1, logprobs=number, detokenize=False, extra_args=guidance)
        )
        probabilities = conditional.softmax(-1)
        kept = probabilities >= min_p * probabilities.max()
        mixed = unconditional + scale * (conditional - unconditional)
        wanted.append(mixed.masked_fill(~kept, -math.inf))
    outputs = model.llm.generate(prompts, params, use_tqdm=False)
    assert 1 < sum(int(logits.isfinite().sum()) == 1 for logits in wanted) < len(wanted)
    for output, logits in zip(outputs, wanted, strict=True):
        [row] = output.outputs[0].logprobs
        assert output.outputs[0].token_ids[0] == int(logits.argmax())
        if len(row) > 3:
            got = torch.tensor([row[code].logprob for code in range(model.config.codebook_size)])
            torch.testing.assert_close(got, logits, atol=1e-3, rtol=0)


def test_a_forced_token_may_be_implausible(class_model: Golden) -> None:
    codes = class_model.expected["cond_logits"][0].argmin(-1)  # the least likely ones
    guidance = {"cfg_scale": 4.0, "cfg_min_p": 0.9, "forced_tokens": codes.tolist()}
    params = SamplingParams(temperature=1, seed=1, max_tokens=64, detokenize=False, extra_args=guidance)
    [output] = class_model.llm.generate([class_model.prompt(0)], params, use_tqdm=False)
    assert list(output.outputs[0].token_ids) == codes.tolist()
