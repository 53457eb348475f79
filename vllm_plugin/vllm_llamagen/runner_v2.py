"""Guidance in vLLM's V2 model runner, as a custom logits processor."""

from __future__ import annotations

import torch
from torch import Tensor
from vllm import SamplingParams

from vllm_llamagen.guidance import (
    Guidance,
    check_params,
    check_unguided_params,
    default_guidance,
    force_tokens,
    mix_branches,
    pad_vocab,
)
from vllm_llamagen.guidance_counts import ImageGuidance, count_unguided
from vllm_llamagen.vllm_compat import LogitsContext, LogitsProcessorV2, LogitsProcRequestState, VllmConfig


class GuidanceV2(LogitsProcessorV2):
    """Mixes the branches of each row with its request's scale, then applies forced tokens.

    A request keeps one slot for as long as it lives; tables on the device hold its scales and forced tokens by slot.
    Every request of a step is accounted for in `guidance_counts`, from what the host knows: nothing waits for the GPU.
    """

    def __init__(self, vllm_config: VllmConfig, req_states: LogitsProcRequestState) -> None:
        config = vllm_config.model_config.hf_config
        self.vocab_size, self.codebook_size = config.vocab_size, config.codebook_size
        self.num_tokens = config.num_image_tokens
        self.default = default_guidance(vllm_config)
        self.req_states = req_states
        shape, device = (req_states.max_num_reqs, self.num_tokens), req_states.device
        self.scales = torch.ones(shape, device=device)
        self.forced = torch.full(shape, -1, device=device)
        self.start_index = torch.zeros(req_states.max_num_reqs, dtype=torch.int64, device=device)
        self.entered: dict[int, Guidance] = {}
        self.images: dict[int, ImageGuidance] = {}

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        check_params(sampling_params)

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        guidance = self.entered[req_idx] = Guidance.from_params(sampling_params, self.default)
        asked = any(scale != 1 for scale in guidance.scales(self.num_tokens)[guidance.start_index :])
        done = self.req_states.prefill_len.np[req_idx] - self.req_states.prompt_len.np[req_idx]
        self.images[req_idx] = ImageGuidance(asked, int(done))
        return True

    def apply_staged_writes(self) -> None:
        for slot, guidance in self.entered.items():
            self.scales[slot] = torch.tensor(guidance.scales(self.num_tokens))
            self.forced[slot] = torch.tensor(guidance.forced(self.num_tokens, self.codebook_size))
            self.start_index[slot] = guidance.start_index
        self.entered.clear()

    def apply(self, logits: Tensor, ctx: LogitsContext) -> Tensor:
        """Logits of all branches [n, branches * codebook_size] -> [n, vocab_size], float32."""
        slots = ctx.expanded_idx_mapping
        token = ctx.pos + 1 - self.req_states.prompt_len.gpu[slots] + self.start_index[slots]
        token = token.clamp(0, self.num_tokens - 1)
        mixed = self.mix(logits, self.scales[slots, token], ctx)
        return force_tokens(mixed, self.forced[slots, token])

    def mix(self, logits: Tensor, scale: Tensor, ctx: LogitsContext) -> Tensor:
        mixed = mix_branches(logits, scale, self.vocab_size)
        self.note_requests(ctx, mixed=logits.shape[1] == 2 * self.codebook_size)
        return mixed

    def note_requests(self, ctx: LogitsContext, mixed: bool) -> None:
        """Notes that a token of each request of the step is sampled now."""
        slots = ctx.idx_mapping_np
        tokens = ctx.seq_lens_upper_bound_np - self.req_states.prompt_len.np[slots]
        for slot, token in zip(slots.tolist(), tokens.tolist(), strict=True):
            if (image := self.images.get(slot)) is None:  # its scales were never written
                count_unguided()
                image = self.images[slot] = ImageGuidance(asked=False, done=1)
            image.sample(max(0, token), mixed and slot not in self.entered)


class UnguidedV2(GuidanceV2):
    """Applies forced tokens for a model with one branch (``cfg_branches: 1``); there is nothing to mix."""

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        check_unguided_params(sampling_params)

    def mix(self, logits: Tensor, scale: Tensor, ctx: LogitsContext) -> Tensor:
        self.note_requests(ctx, mixed=False)
        return pad_vocab(logits.float(), self.vocab_size)
