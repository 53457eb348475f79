"""Guidance in vLLM's V1 model runner, as a custom logits processor, and the branches' log-probabilities there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from vllm import SamplingParams

from vllm_llamagen.admission import check_params, check_unguided_params
from vllm_llamagen.branch_logprobs import write_branch_logprobs
from vllm_llamagen.guidance import (
    Guidance,
    default_guidance,
    exclude_implausible,
    force_tokens,
    mix_branches,
    pad_vocab,
)
from vllm_llamagen.guidance_counts import ImageGuidance, count_unguided
from vllm_llamagen.vllm_compat import (
    BatchUpdate,
    LogitsProcessorV1,
    SamplerOutputV1,
    SamplerV1,
    SamplingMetadata,
    VllmConfig,
    process_dict_updates,
)

T = TypeVar("T")


class GuidanceV1(LogitsProcessorV1):
    """Mixes the branches of each row with its request's scale, then applies forced tokens.

    The runner reports when a request enters, leaves or moves within the batch; `requests` maps batch rows to requests.
    Every row is accounted for in `guidance_counts`.
    """

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        config = vllm_config.model_config.hf_config
        self.vocab_size, self.codebook_size = config.vocab_size, config.codebook_size
        self.num_tokens = config.num_image_tokens
        self.default = default_guidance(vllm_config)
        self.device = device
        self.requests: dict[int, _Request] = {}
        self.scales: list[float] = []
        self.scale = torch.empty(0, device=device)
        """``scales`` on the device."""

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        check_params(sampling_params)

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        for request in self.requests.values():
            request.image.check(len(request.output_ids))
        process_dict_updates(self.requests, batch_update, self._new_request)

    def _new_request(self, params: SamplingParams, prompt_ids: list[int] | None, output_ids: list[int]) -> _Request:
        guidance = Guidance.from_params(params, self.default)
        forced = guidance.forced(self.num_tokens, self.codebook_size) if guidance.forced_tokens else []
        scales = guidance.scales(self.num_tokens)
        return _Request(scales, forced, guidance.start_index, output_ids, guidance.branch_logprobs, guidance.min_p)

    def apply(self, logits: Tensor) -> Tensor:
        """Logits of all branches [n, branches * codebook_size] -> [n, vocab_size], float32."""
        rows = [self.requests.get(row) or self._unknown_request(row) for row in range(len(logits))]
        logits = self.mix(logits, rows)
        if not any(request.forced for request in rows):
            return logits
        codes = [request.current(request.forced) if request.forced else -1 for request in rows]
        return force_tokens(logits, torch.tensor(codes, device=self.device))

    def write_branch_logprobs(self, logits: Tensor, output: SamplerOutputV1) -> None:
        """Adds the log-probabilities of the branches to what was sampled from the logits of `apply`."""
        rows = [self.requests.get(row) for row in range(len(logits))]
        wanted = [request is not None and request.branch_logprobs for request in rows]
        if any(wanted):
            assert output.logprobs_tensors is not None
            branches = logits.float().view(-1, 2, self.codebook_size)
            codes = output.sampled_token_ids[:, 0].long()
            write_branch_logprobs(output.logprobs_tensors, codes, branches, torch.tensor(wanted, device=self.device))

    def mix(self, logits: Tensor, rows: list[_Request]) -> Tensor:
        scales = [request.current(request.scales) for request in rows]
        if scales != self.scales:
            self.scales, self.scale = scales, torch.tensor(scales, device=self.device)
        mixed = self.apply_min_p(mix_branches(logits, self.scale), logits, rows)
        note_rows(rows, mixed=logits.shape[1] == 2 * self.codebook_size)
        return pad_vocab(mixed, self.vocab_size)

    def apply_min_p(self, mixed: Tensor, logits: Tensor, rows: list[_Request]) -> Tensor:
        min_p = [request.min_p for request in rows]
        if not any(min_p):
            return mixed
        conditional = logits[:, : self.codebook_size].float()
        return exclude_implausible(mixed, conditional, torch.tensor(min_p, device=self.device))

    def _unknown_request(self, row: int) -> _Request:
        """Returns a stand-in for a request that the runner never reported: nobody knows its scale."""
        count_unguided()
        self.requests[row] = _Request([1.0], [], 0, [])
        self.requests[row].image.done = 1
        return self.requests[row]


class _Request:
    """A request in the batch. ``output_ids`` is the runner's own list, which grows with every step."""

    def __init__(
        self,
        scales: list[float],
        forced: list[int],
        start_index: int,
        output_ids: list[int],
        branch_logprobs: bool = False,
        min_p: float = 0.0,
    ) -> None:
        self.scales, self.forced, self.start_index, self.output_ids = scales, forced, start_index, output_ids
        self.branch_logprobs, self.min_p = branch_logprobs, min_p
        self.image = ImageGuidance(any(scale != 1 for scale in scales[start_index:]), len(output_ids))

    def current(self, table: Sequence[T]) -> T:
        """Returns the entry of the image token that is sampled next."""
        return table[min(self.start_index + len(self.output_ids), len(table) - 1)]


def note_rows(rows: list[_Request], mixed: bool) -> None:
    """Notes that a token of each row is sampled now."""
    for request in rows:
        request.image.sample(len(request.output_ids), mixed)


class UnguidedV1(GuidanceV1):
    """Applies forced tokens for a model with one branch (``cfg_branches: 1``); there is nothing to mix."""

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        check_unguided_params(sampling_params)

    def mix(self, logits: Tensor, rows: list[_Request]) -> Tensor:
        note_rows(rows, mixed=False)
        return pad_vocab(self.apply_min_p(logits.float(), logits, rows), self.vocab_size)


class BranchSampler(SamplerV1):
    """vLLM's sampler, which also returns the log-probabilities of the branches to requests that want them."""

    def forward(
        self, logits: Tensor, sampling_metadata: SamplingMetadata, *args: Any, **kwargs: Any
    ) -> SamplerOutputV1:
        output = super().forward(logits, sampling_metadata, *args, **kwargs)
        for processor in sampling_metadata.logitsprocs.all:
            if isinstance(processor, GuidanceV1):
                processor.write_branch_logprobs(logits, output)
        return output
