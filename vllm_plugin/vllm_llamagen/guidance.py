"""Classifier-free guidance per request, as a custom logits processor of vLLM.

A request says how it is guided in ``SamplingParams.extra_args``:

- ``cfg_scale``: finite number >= 0. The logits are ``u + cfg_scale * (c - u)`` of the unconditional and the conditional
  stream: 1 is the conditional model alone, 0 the unconditional one. (The official code knows no scale below 1.)
- ``cfg_interval``: integer >= -1. -1 guides every token. ``k >= 0`` guides the first token and decode steps 0 to k,
  that is image tokens 0 to k + 1; the rest are conditional only (official ``generate`` and ``decode_n_tokens``).

Without ``cfg_scale`` a request has the default of the model directory's ``generation_config.json``, else 1.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from vllm.sampling_params import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate
from vllm.v1.sample.logits_processor import LogitsProcessor as LogitsProcessorV1
from vllm.v1.sample.logits_processor.builtin import process_dict_updates
from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcRequestState
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as LogitsProcessorV2

if TYPE_CHECKING:
    from vllm.config import VllmConfig


class Guidance(NamedTuple):
    """How one request is guided."""

    scale: float = 1.0
    interval: int = -1

    @classmethod
    def from_params(cls, params: SamplingParams, default: Guidance) -> Guidance:
        """Reads and checks ``extra_args``.

        Raises:
            ValueError: a value is not allowed; the message names it.
        """
        args = params.extra_args or {}
        scale, interval = args.get("cfg_scale", default.scale), args.get("cfg_interval", default.interval)
        if isinstance(scale, bool) or not isinstance(scale, int | float) or not (0 <= scale < math.inf):
            raise ValueError(f"cfg_scale is {scale!r}, must be a finite number >= 0")
        if isinstance(interval, bool) or not isinstance(interval, int) or interval < -1:
            raise ValueError(f"cfg_interval is {interval!r}, must be an integer >= -1 (-1 guides every token)")
        return cls(float(scale), interval)

    def scale_at(self, token: int) -> float:
        """The scale for image token ``token``."""
        return self.scale if self.interval < 0 or token <= self.interval + 1 else 1.0


NEUTRAL_PARAMS: dict[str, Any] = {
    "allowed_token_ids": None,
    "bad_words": [],
    "frequency_penalty": 0.0,
    "logit_bias": None,
    "min_tokens": 0,
    "presence_penalty": 0.0,
    "prompt_logprobs": None,
    "repetition_penalty": 1.0,
    "structured_outputs": None,
}
"""Sampling parameters that vLLM applies before the streams are mixed, or that make no sense for codes: refused."""


def check_params(params: SamplingParams) -> None:
    """Checks a request at admission.

    Raises:
        ValueError: guidance is malformed, or the request sets one of `NEUTRAL_PARAMS`.
    """
    Guidance.from_params(params, Guidance())
    for name, neutral in NEUTRAL_PARAMS.items():
        if (value := getattr(params, name)) not in (neutral, None):
            raise ValueError(f"{name} is {value!r}; LlamaGen does not support it, leave it out")


def mix(logits: Tensor, scale: Tensor, vocab_size: int) -> Tensor:
    """Mixes the two streams of every row.

    Args:
        logits: [n, 2 * codebook_size], float32, conditional stream first.
        scale: [n], float32.
        vocab_size: width of the result; the ids behind the codes are conditions and can never be sampled.

    Returns:
        [n, vocab_size], float32.
    """
    conditional, unconditional = logits.float().chunk(2, dim=-1)
    return pad_vocab(torch.lerp(unconditional, conditional, scale[:, None]), vocab_size)


def pad_vocab(logits: Tensor, vocab_size: int) -> Tensor:
    return torch.nn.functional.pad(logits, (0, vocab_size - logits.shape[-1]), value=-math.inf)


class GuidanceV1(LogitsProcessorV1):
    """Guidance for vLLM's V1 model runner."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        self.vocab_size = vllm_config.model_config.get_vocab_size()
        self.default = default_guidance(vllm_config)
        self.device = device
        self.rows: dict[int, tuple[Guidance, list[int]]] = {}  # batch row -> guidance, codes sampled so far
        self.scale: Tensor | None = None

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        check_params(sampling_params)

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        if process_dict_updates(self.rows, batch_update, self._new_row) or batch_update:
            self.scale = None

    def _new_row(
        self, params: SamplingParams, prompt_ids: list[int] | None, output_ids: list[int]
    ) -> tuple[Guidance, list[int]]:
        return Guidance.from_params(params, self.default), output_ids

    def apply(self, logits: Tensor) -> Tensor:
        return mix(logits, self._scales(logits.shape[0]), self.vocab_size)

    def _scales(self, n: int) -> Tensor:
        if self.scale is None or any(guidance.interval >= 0 for guidance, _ in self.rows.values()):
            values = [1.0] * n
            for row, (guidance, output_ids) in self.rows.items():
                values[row] = guidance.scale_at(len(output_ids))
            self.scale = torch.tensor(values, device=self.device)
        return self.scale


class GuidanceV2(LogitsProcessorV2):
    """Guidance for vLLM's V2 model runner, whose requests keep one slot for as long as they live."""

    def __init__(self, vllm_config: VllmConfig, req_states: LogitsProcRequestState) -> None:
        self.vocab_size = vllm_config.model_config.get_vocab_size()
        self.default = default_guidance(vllm_config)
        self.req_states = req_states
        self.slots = [self.default] * req_states.max_num_reqs
        self.dirty = True
        self.scale = torch.ones(req_states.max_num_reqs, device=req_states.device)
        self.last_token = torch.zeros(req_states.max_num_reqs, dtype=torch.int64, device=req_states.device)

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        check_params(sampling_params)

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        self.slots[req_idx] = Guidance.from_params(sampling_params, self.default)
        self.dirty = True
        return True

    def apply_staged_writes(self) -> None:
        if not self.dirty:
            return
        last = [guidance.interval + 1 if guidance.interval >= 0 else 2**31 for guidance in self.slots]
        self.scale.copy_(torch.tensor([guidance.scale for guidance in self.slots]))
        self.last_token.copy_(torch.tensor(last))
        self.dirty = False

    def apply(self, logits: Tensor, ctx: LogitsContext) -> Tensor:
        slots = ctx.expanded_idx_mapping
        token = ctx.pos + 1 - self.req_states.prompt_len.gpu[slots]
        scale = torch.where(token <= self.last_token[slots], self.scale[slots], 1.0)
        return mix(logits, scale, self.vocab_size)


class _SingleStream:
    """For a server that never guides (``guidance_streams: 1``): half the work, and guided requests are refused."""

    vocab_size: int

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        check_params(sampling_params)
        if (scale := Guidance.from_params(sampling_params, Guidance()).scale) != 1:
            raise ValueError(f"cfg_scale is {scale}, must be 1: this server runs without guidance (guidance_streams 1)")


class SingleStreamV1(_SingleStream, GuidanceV1):
    def apply(self, logits: Tensor) -> Tensor:
        return pad_vocab(logits.float(), self.vocab_size)


class SingleStreamV2(_SingleStream, GuidanceV2):
    def apply(self, logits: Tensor, ctx: LogitsContext) -> Tensor:
        return pad_vocab(logits.float(), self.vocab_size)


def logits_processor(guidance_streams: int, v2_model_runner: bool) -> str:
    """The value for vLLM's ``logits_processors`` argument, "module:class"."""
    classes: dict[tuple[int, bool], type] = {
        (1, False): SingleStreamV1,
        (1, True): SingleStreamV2,
        (2, False): GuidanceV1,
        (2, True): GuidanceV2,
    }
    return f"{__name__}:{classes[guidance_streams, v2_model_runner].__name__}"


def check_engine(vllm_config: VllmConfig) -> None:
    """Refuses an engine that would sample without guidance.

    Raises:
        ValueError: the matching logits processor is not configured, or log-probabilities would be taken before it.
    """
    model_config = vllm_config.model_config
    needed = logits_processor(model_config.hf_config.guidance_streams, vllm_config.use_v2_model_runner)
    configured = [
        p if isinstance(p, str) else f"{p.__module__}:{p.__qualname__}" for p in model_config.logits_processors or ()
    ]
    if needed not in configured:
        raise ValueError(f"LlamaGen needs its guidance in the sampler: start vLLM with --logits-processors {needed}")
    if not model_config.logprobs_mode.startswith("processed"):
        raise ValueError(
            f"logprobs_mode is {model_config.logprobs_mode}, which ignores guidance: "
            "start vLLM with --logprobs-mode processed_logprobs"
        )


def default_guidance(vllm_config: VllmConfig) -> Guidance:
    """Guidance of requests that do not ask for any."""
    if vllm_config.model_config.hf_config.guidance_streams == 1:
        return Guidance()
    return Guidance(scale=float(vllm_config.model_config.try_get_generation_config().get("cfg_scale", 1.0)))
