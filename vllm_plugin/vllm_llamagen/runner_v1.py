"""Guidance in vLLM's V1 model runner, as a custom logits processor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor
from vllm import SamplingParams

from vllm_llamagen.admission import check_params, check_unguided_params
from vllm_llamagen.guidance import Guidance, default_guidance, force_tokens, mix_branches, pad_vocab
from vllm_llamagen.guidance_counts import ImageGuidance, count_unguided
from vllm_llamagen.vllm_compat import BatchUpdate, LogitsProcessorV1, VllmConfig, process_dict_updates

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
        return _Request(guidance.scales(self.num_tokens), forced, guidance.start_index, output_ids)

    def apply(self, logits: Tensor) -> Tensor:
        """Logits of all branches [n, branches * codebook_size] -> [n, vocab_size], float32."""
        rows = [self.requests.get(row) or self._unknown_request(row) for row in range(len(logits))]
        logits = self.mix(logits, rows)
        if not any(request.forced for request in rows):
            return logits
        codes = [request.current(request.forced) if request.forced else -1 for request in rows]
        return force_tokens(logits, torch.tensor(codes, device=self.device))

    def mix(self, logits: Tensor, rows: list[_Request]) -> Tensor:
        scales = [request.current(request.scales) for request in rows]
        if scales != self.scales:
            self.scales, self.scale = scales, torch.tensor(scales, device=self.device)
        mixed = mix_branches(logits, self.scale)
        note_rows(rows, mixed=logits.shape[1] == 2 * self.codebook_size)
        return pad_vocab(mixed, self.vocab_size)

    def _unknown_request(self, row: int) -> _Request:
        """Returns a stand-in for a request that the runner never reported: nobody knows its scale."""
        count_unguided()
        self.requests[row] = _Request([1.0], [], 0, [])
        self.requests[row].image.done = 1
        return self.requests[row]


class _Request:
    """A request in the batch. ``output_ids`` is the runner's own list, which grows with every step."""

    def __init__(self, scales: list[float], forced: list[int], start_index: int, output_ids: list[int]) -> None:
        self.scales, self.forced, self.start_index, self.output_ids = scales, forced, start_index, output_ids
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
        return pad_vocab(logits.float(), self.vocab_size)
