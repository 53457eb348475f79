"""Guidance as a custom logits processor of vLLM: one class for each of its two model runners."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor
from vllm.sampling_params import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate
from vllm.v1.sample.logits_processor import LogitsProcessor as LogitsProcessorV1
from vllm.v1.sample.logits_processor.builtin import process_dict_updates
from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcRequestState
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as LogitsProcessorV2

from vllm_llamagen.guidance import Guidance, check_params, force, mix, pad_vocab

if TYPE_CHECKING:
    from vllm.config import VllmConfig

T = TypeVar("T")


class GuidanceV1(LogitsProcessorV1):
    """Guidance for vLLM's V1 model runner, which tells when a request enters, leaves or moves within the batch."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        config = vllm_config.model_config.hf_config
        self.vocab_size, self.codebook_size = config.vocab_size, config.codebook_size
        self.num_tokens = config.num_image_tokens
        self.default = default_guidance(vllm_config)
        self.device = device
        self.rows: dict[int, _Row] = {}
        self.scale: Tensor | None = None

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        check_params(sampling_params)

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        if process_dict_updates(self.rows, batch_update, self._new_row) or batch_update:
            self.scale = None

    def _new_row(self, params: SamplingParams, prompt_ids: list[int] | None, output_ids: list[int]) -> _Row:
        guidance = Guidance.from_params(params, self.default)
        forced = _only_codes(guidance.forced(self.num_tokens), self.codebook_size) if guidance.forced_codes else []
        return _Row(guidance.scales(self.num_tokens), forced, guidance.first_token, output_ids)

    def apply(self, logits: Tensor) -> Tensor:
        logits = self.mix(logits)
        forced = {row: request.now(request.forced) for row, request in self.rows.items() if request.forced}
        if not forced:
            return logits
        return force(logits, torch.tensor([forced.get(row, -1) for row in range(len(logits))], device=self.device))

    def mix(self, logits: Tensor) -> Tensor:
        if self.scale is None or any(request.varies for request in self.rows.values()):
            scales = [1.0] * len(logits)
            for row, request in self.rows.items():
                scales[row] = request.now(request.scales)
            self.scale = torch.tensor(scales, device=self.device)
        return mix(logits, self.scale, self.vocab_size)


class _Row:
    """A request in the batch of the V1 runner."""

    def __init__(self, scales: list[float], forced: list[int], first_token: int, output_ids: list[int]) -> None:
        self.scales, self.forced, self.first_token, self.output_ids = scales, forced, first_token, output_ids
        self.varies = len(set(scales)) > 1

    def now(self, table: Sequence[T]) -> T:
        """The entry of the token that is sampled next."""
        return table[min(self.first_token + len(self.output_ids), len(table) - 1)]


class GuidanceV2(LogitsProcessorV2):
    """Guidance for vLLM's V2 model runner, whose requests keep one slot for as long as they live."""

    def __init__(self, vllm_config: VllmConfig, req_states: LogitsProcRequestState) -> None:
        config = vllm_config.model_config.hf_config
        self.vocab_size, self.codebook_size = config.vocab_size, config.codebook_size
        self.num_tokens = config.num_image_tokens
        self.default = default_guidance(vllm_config)
        self.req_states = req_states
        shape, device = (req_states.max_num_reqs, self.num_tokens), req_states.device
        self.scales = torch.ones(shape, device=device)
        self.forced = torch.full(shape, -1, device=device)
        self.first_token = torch.zeros(req_states.max_num_reqs, dtype=torch.int64, device=device)
        self.entered: dict[int, Guidance] = {}

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        check_params(sampling_params)

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        self.entered[req_idx] = Guidance.from_params(sampling_params, self.default)
        return True

    def apply_staged_writes(self) -> None:
        for slot, guidance in self.entered.items():
            self.scales[slot] = torch.tensor(guidance.scales(self.num_tokens))
            self.forced[slot] = torch.tensor(_only_codes(guidance.forced(self.num_tokens), self.codebook_size))
            self.first_token[slot] = guidance.first_token
        self.entered.clear()

    def apply(self, logits: Tensor, ctx: LogitsContext) -> Tensor:
        slots = ctx.expanded_idx_mapping
        token = ctx.pos + 1 - self.req_states.prompt_len.gpu[slots] + self.first_token[slots]
        token = token.clamp(0, self.num_tokens - 1)
        return force(self.mix(logits, self.scales[slots, token]), self.forced[slots, token])

    def mix(self, logits: Tensor, scale: Tensor) -> Tensor:
        return mix(logits, scale, self.vocab_size)


def _only_codes(codes: list[int], codebook_size: int) -> list[int]:
    """Drops what is no code: admission cannot see the codebook, and an engine must not die of a request."""
    return [code if code < codebook_size else -1 for code in codes]


class _SingleStream:
    """For a server that never guides (``guidance_streams: 1``): half the work, and guided requests are refused."""

    vocab_size: int

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        check_params(sampling_params)
        if (scale := Guidance.from_params(sampling_params, Guidance()).scale) != 1:
            raise ValueError(f"cfg_scale is {scale}, must be 1: this server runs without guidance (guidance_streams 1)")


class SingleStreamV1(_SingleStream, GuidanceV1):
    def mix(self, logits: Tensor) -> Tensor:
        return pad_vocab(logits.float(), self.vocab_size)


class SingleStreamV2(_SingleStream, GuidanceV2):
    def mix(self, logits: Tensor, scale: Tensor) -> Tensor:
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
    if vllm_config.use_v2_model_runner and model_config.hf_config.condition == "text":
        # It loses which positions of a prompt are text when a request is resumed or has codes in its prompt.
        raise ValueError("text models need vLLM's V1 model runner: set VLLM_USE_V2_MODEL_RUNNER=0")
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
