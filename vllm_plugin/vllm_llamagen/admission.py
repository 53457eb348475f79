"""What a request may ask the engine for. vLLM checks it when it admits the request, in both model runners.

vLLM asks the classes of its ``logits_processors`` argument. In the V1 runner that is the processor which guides; in the
V2 runner, where `runner_v2` guides before there are logits, it is one of the classes below, which do nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm_llamagen.branch_logprobs import NUM_LOGPROBS
from vllm_llamagen.guidance import Guidance
from vllm_llamagen.vllm_compat import LogitsProcessorV2

if TYPE_CHECKING:
    from torch import Tensor
    from vllm import SamplingParams

    from vllm_llamagen.vllm_compat import LogitsContext

NEUTRAL_PARAMS: dict[str, Any] = {
    "allowed_token_ids": None,
    "bad_words": [],
    "frequency_penalty": 0.0,
    "logit_bias": None,
    "logprob_token_ids": None,
    "min_tokens": 0,
    "presence_penalty": 0.0,
    "prompt_logprob_token_ids": None,
    "prompt_logprobs": None,
    "repetition_penalty": 1.0,
    "structured_outputs": None,
}
"""Sampling parameters that must keep these values: vLLM applies them before guidance, or they mean nothing here."""


def check_params(params: SamplingParams) -> None:
    """Checks a request at admission.

    Raises:
        ValueError: guidance is malformed, the request sets one of `NEUTRAL_PARAMS`, or it wants log-probabilities of
            the branches without their columns.
    """
    guidance = Guidance.from_params(params, Guidance())
    if guidance.branch_logprobs and params.logprobs != NUM_LOGPROBS:
        raise ValueError(
            f"branch_logprobs needs logprobs {NUM_LOGPROBS}, not {params.logprobs}: it takes these columns"
        )
    for name, neutral in NEUTRAL_PARAMS.items():
        if (value := getattr(params, name)) not in (neutral, None):
            raise ValueError(f"{name} is {value!r}; LlamaGen does not support it, leave it out")


def check_unguided_params(params: SamplingParams) -> None:
    """Checks a request to an engine with one branch (``cfg_branches: 1``), which cannot guide.

    Raises:
        ValueError: as `check_params`, or the request asks for guidance, or for both branches.
    """
    check_params(params)
    guidance = Guidance.from_params(params, Guidance())
    if guidance.scale != 1:
        raise ValueError(
            f"cfg_scale is {guidance.scale}, must be 1: this server runs without guidance (cfg_branches 1)"
        )
    if guidance.branch_logprobs:
        raise ValueError("branch_logprobs is true, must be false: this server has one branch (cfg_branches 1)")


class AdmissionV2(LogitsProcessorV2):
    """Checks requests, and leaves logits alone."""

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        check_params(sampling_params)

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        return False

    def apply(self, logits: Tensor, ctx: LogitsContext) -> Tensor:
        return logits


class UnguidedAdmissionV2(AdmissionV2):
    """Checks requests to an engine with one branch."""

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        check_unguided_params(sampling_params)
