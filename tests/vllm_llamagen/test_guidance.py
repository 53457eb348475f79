"""Guidance: the arithmetic, and what a request may ask for."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from vllm import SamplingParams

from vllm_llamagen.admission import check_params
from vllm_llamagen.guidance import Guidance, exclude_implausible, force_tokens, mix_branches, pad_vocab

CODES, VOCAB = 6, 8


def params(**extra_args: Any) -> SamplingParams:
    return SamplingParams(extra_args=extra_args)


def test_mixing_is_the_formula_and_hides_conditions() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 2 * CODES)
    mixed = pad_vocab(mix_branches(logits, torch.tensor([4.0, 1.0, 0.0])), VOCAB)
    conditional, unconditional = logits[:, :CODES], logits[:, CODES:]
    torch.testing.assert_close(mixed[0, :CODES], (unconditional + 4 * (conditional - unconditional))[0])
    assert torch.equal(mixed[1, :CODES], conditional[1])
    assert torch.equal(mixed[2, :CODES], unconditional[2])
    assert mixed[:, CODES:].eq(-math.inf).all()
    assert not mixed.isnan().any()


def test_mixing_is_float32_for_bfloat16_logits() -> None:
    logits = torch.randn(1, 2 * CODES).bfloat16()
    assert mix_branches(logits, torch.tensor([7.5])).dtype == torch.float32


def test_mixing_hidden_states_gives_the_mixed_logits() -> None:
    torch.manual_seed(0)
    head, hidden, scale = torch.randn(CODES, 16), torch.randn(3, 2, 16), torch.tensor([4.0, 1.0, 0.0])
    logits = mix_branches((hidden @ head.T).flatten(1), scale)
    torch.testing.assert_close(mix_branches(hidden.flatten(1), scale) @ head.T, logits)


def test_codes_far_less_likely_than_the_most_likely_one_are_excluded() -> None:
    conditional = torch.tensor([[0.5, 0.3, 0.1, 0.06, 0.04]]).log().repeat(4, 1) + 7  # logits have any offset
    mixed = torch.arange(20.0).view(4, 5)
    found = exclude_implausible(mixed, conditional, torch.tensor([0.0, 0.1, 0.5, 1.0]))
    kept = [row.isfinite().nonzero().flatten().tolist() for row in found]
    assert kept == [[0, 1, 2, 3, 4], [0, 1, 2, 3], [0, 1], [0]]
    assert torch.equal(found[found.isfinite()], mixed[found.isfinite()])


@pytest.mark.parametrize(
    ("interval", "guided"), [(-1, range(64)), (0, range(2)), (10, range(12)), (62, range(64)), (100, range(64))]
)
def test_interval_guides_the_tokens_of_the_official_code(interval: int, guided: range) -> None:
    scales = Guidance(4.0, interval).scales(64)
    assert len(scales) == 64
    assert [token for token, scale in enumerate(scales) if scale == 4.0] == list(guided)
    assert set(scales) <= {1.0, 4.0}


def test_schedules_rise_from_one_to_the_scale() -> None:
    linear, cosine = (Guidance(5.0, schedule=name).scales(5) for name in ("linear", "cosine"))
    assert linear == [1, 2, 3, 4, 5]
    assert cosine == pytest.approx([1, 3 - 2 * math.sqrt(0.5), 3, 3 + 2 * math.sqrt(0.5), 5])
    assert Guidance(5.0, interval=1, schedule="linear").scales(5) == [1, 2, 3, 1, 1]
    assert Guidance(5.0, schedule="linear").scales(1) == [1]


def test_a_forced_token_leaves_one_code() -> None:
    logits = force_tokens(torch.zeros(3, VOCAB), torch.tensor([2, -1, 0]))
    assert logits[0].isfinite().tolist() == [c == 2 for c in range(VOCAB)]
    assert logits[1].isfinite().all()
    assert logits[2].argmax() == 0


@pytest.mark.parametrize("scale", [-0.1, 1000.1, math.nan, math.inf, "4", None, True, [4.0]])
def test_bad_scales_are_refused(scale: Any) -> None:
    with pytest.raises(ValueError, match="cfg_scale is .*, must be a number from 0 to 1000"):
        check_params(params(cfg_scale=scale))


@pytest.mark.parametrize("interval", [-2, 2**40, 1.5, "3", None, True])
def test_bad_intervals_are_refused(interval: Any) -> None:
    with pytest.raises(ValueError, match="cfg_interval is .*, must be an integer >= -1"):
        check_params(params(cfg_scale=4.0, cfg_interval=interval))


@pytest.mark.parametrize("min_p", [-0.1, 1.1, math.nan, math.inf, "0.1", None, True])
def test_bad_min_p_is_refused(min_p: Any) -> None:
    with pytest.raises(ValueError, match="cfg_min_p is .*, must be a number from 0 to 1"):
        check_params(params(cfg_scale=4.0, cfg_min_p=min_p))


@pytest.mark.parametrize(
    "args",
    [
        {"cfg_schedule": "quadratic"},
        {"start_index": -1},
        {"start_index": "0"},
        {"start_index": 2**64 - 1},
        {"forced_tokens": [2**40]},
        {"forced_tokens": 3},
        {"forced_tokens": [1, -2]},
        {"forced_tokens": [1.5]},
        {"forced_tokens": [True]},
    ],
)
def test_other_bad_arguments_are_refused(args: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(args))):
        check_params(params(**args))


@pytest.mark.parametrize(
    "field", [{"logit_bias": {1: 1.0}}, {"allowed_token_ids": [1]}, {"repetition_penalty": 1.1}, {"prompt_logprobs": 1}]
)
def test_parameters_that_would_bypass_guidance_are_refused(field: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(field))} is .*LlamaGen does not support it"):
        check_params(SamplingParams(**field))


def test_plain_sampling_is_accepted() -> None:
    check_params(
        SamplingParams(temperature=0.7, top_k=100, top_p=0.9, min_p=0.1, seed=3, max_tokens=64, ignore_eos=True)
    )
    check_params(params(cfg_scale=0, cfg_interval=-1))
