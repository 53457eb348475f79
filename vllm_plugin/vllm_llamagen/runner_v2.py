"""Guidance in vLLM's V2 model runner, from the model's own state in that runner.

Only the last hidden states differ between the branches of a token, and the head is linear. So they are mixed before the
head, which then has half the rows, and logits are as wide as the vocabulary from the start.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vllm_llamagen.branch_logprobs import write_branch_logprobs
from vllm_llamagen.decode_window import WindowSampler
from vllm_llamagen.guidance import (
    Guidance,
    default_guidance,
    exclude_implausible,
    force_tokens,
    mix_branches,
    pad_vocab,
)
from vllm_llamagen.guidance_counts import ImageGuidance
from vllm_llamagen.vllm_compat import DefaultModelState, async_tensor_h2d

if TYPE_CHECKING:
    from vllm import SamplingParams

    from vllm_llamagen.model import LlamaGenForCausalLM
    from vllm_llamagen.vllm_compat import (
        InputBatch,
        NewRequestData,
        RequestState,
        SamplerOutput,
        SamplerV2,
        VllmConfig,
    )


class Rows(NamedTuple):
    """The rows of logits that a step samples from. A request has several where tokens were guessed ahead."""

    slots: Tensor
    """[n], int64: the request of each row."""
    tokens: Tensor
    """[n], int64: the index in the image of the token that each row samples."""
    any_forced: bool
    any_branch_logprobs: bool
    any_min_p: bool


class Entry(NamedTuple):
    """A request that enters, for the tables on the device."""

    scales: np.ndarray
    """[num_image_tokens], float32."""
    forced: list[int]
    """[num_image_tokens]."""
    offset: int
    min_p: float


class Sampled(NamedTuple):
    """What a step samples, as far as the host knows before it has run."""

    slots: np.ndarray
    """[requests]."""
    lengths: np.ndarray
    """[requests], the longest that each sequence can be, with what the step reads of it."""
    counts: np.ndarray
    """[requests], rows of each request."""


class GuidanceV2:
    """The guidance of every request, in tables on the device.

    A request keeps one slot for as long as it lives. The runner announces the rows of a step, runs the model, and asks
    for the rows' logits. Every image is accounted for in `guidance_counts`, from what the host knows: nothing waits for
    the GPU.
    """

    def __init__(self, vllm_config: VllmConfig, device: torch.device) -> None:
        config, size = vllm_config.model_config.hf_config, vllm_config.scheduler_config.max_num_seqs
        self.branches, self.num_tokens = config.cfg_branches, config.num_image_tokens
        self.vocab_size, self.codebook_size = config.vocab_size, config.codebook_size
        self.default = default_guidance(vllm_config)
        self.device = device
        self.scales = torch.ones((size, self.num_tokens), device=device)
        self.min_p = torch.zeros(size, device=device)
        self.forced = torch.full((size, self.num_tokens), -1, device=device)
        self.offset = torch.zeros(size, dtype=torch.int64, device=device)
        """From a position in the sequence to the index in the image of the token that is sampled after it."""
        self.has_forced = np.zeros(size, dtype=bool)
        self.wants_branches = np.zeros(size, dtype=bool)
        self.has_min_p = np.zeros(size, dtype=bool)
        self.branch_logits: Tensor | None = None
        """[n, 2, codebook_size], of the rows that were mixed last, if one of them wants `branch_logprobs`."""
        self.entered: dict[int, Entry] = {}
        self.prompt_lens = np.zeros(size, dtype=np.int64)
        self.images: dict[int, ImageGuidance] = {}
        self.rows: Rows | None = None
        self.has_images = False
        """Whether the rows announced last are an image's."""
        self.sampled: Sampled | None = None
        """What was announced, and not mixed yet."""

    def enter(self, slot: int, params: SamplingParams, prompt_len: int, done: int, is_image: bool = True) -> None:
        """Takes in a request. `write` makes it count.

        Args:
            done: number of tokens sampled before a preemption.
            is_image: False for a request of vLLM's own, which is not counted.
        """
        guidance = Guidance.from_params(params, self.default)
        scales = np.array(guidance.scales(self.num_tokens), dtype=np.float32)
        forced = guidance.forced(self.num_tokens, self.codebook_size)
        self.entered[slot] = Entry(scales, forced, guidance.start_index + 1 - prompt_len, guidance.min_p)
        self.has_forced[slot] = bool(guidance.forced_tokens)
        self.wants_branches[slot] = guidance.branch_logprobs
        self.has_min_p[slot] = guidance.min_p > 0
        self.prompt_lens[slot] = prompt_len
        self.images.pop(slot, None)
        if is_image:
            self.images[slot] = ImageGuidance(bool((scales[guidance.start_index :] != 1).any()), done)

    def write(self) -> None:
        """Writes the requests that entered into the tables."""
        if not self.entered:
            return
        index = self._to_device(list(self.entered), np.int64)
        scales, forced, offsets, min_ps = zip(*self.entered.values(), strict=True)
        self.scales[index] = self._to_device(scales, np.float32)
        self.forced[index] = self._to_device(forced, np.int64)
        self.offset[index] = self._to_device(offsets, np.int64)
        self.min_p[index] = self._to_device(min_ps, np.float32)
        self.entered.clear()

    def _to_device(self, values: Sequence[Any], dtype: type[np.generic]) -> Tensor:
        """Copies from pinned memory: an ordinary copy would wait for all of the GPU's work."""
        return async_tensor_h2d(np.array(values, dtype=dtype), device=self.device)

    def begin(self, slots: Tensor, positions: Tensor, slots_np: np.ndarray) -> None:
        """Announces the rows of the next `logits`.

        Args:
            slots: [n], the request of each row.
            positions: [n], position in its sequence of the token that each row reads.
            slots_np: the requests of the step, on the host.
        """
        tokens = (positions + self.offset[slots]).clamp_(0, self.num_tokens - 1)
        flags = (self.has_forced, self.wants_branches, self.has_min_p)
        self.rows = Rows(slots, tokens, *(bool(flag[slots_np].any()) for flag in flags))
        self.has_images = not self.images.keys().isdisjoint(slots_np.tolist())

    def expect(self, sampled: Sampled) -> None:
        """Announces what a step samples. It counts when `logits` mixes it; if that is never called, as unguided."""
        if self.sampled:
            self._count(self.sampled, mixed=False)
        self.sampled = sampled

    def logits(self, hidden_states: Tensor, head: Callable[[Tensor], Tensor | None]) -> Tensor | None:
        """Returns the logits of the rows.

        Args:
            hidden_states: [n, branches * dim], conditional branch first.
            head: float32 [n, dim] -> logits [n, codebook_size], or None on a worker that does not sample.

        Returns:
            [n, vocab_size], float32.

        Raises:
            RuntimeError: these are not the rows that were announced; nobody knows their scales.
        """
        rows, self.rows = self.rows, None
        if rows is None or len(rows.slots) != len(hidden_states):
            if self.has_images:
                raise RuntimeError("vLLM asks for logits of rows that it has not announced: they would not be guided")
            rows = None  # vLLM warms up, and also computes the logits of prompts, which no image may ask for
        self.branch_logits = self._branch_logits(hidden_states, head) if rows and rows.any_branch_logprobs else None
        count = len(hidden_states)
        if self.branches == 2:
            conditional = hidden_states[:, : hidden_states.shape[1] // 2]
            scale = self.scales[rows.slots, rows.tokens] if rows else hidden_states.new_ones(1, dtype=torch.float32)
            hidden_states = mix_branches(hidden_states, scale)
            if rows and rows.any_min_p and self.branch_logits is None:  # in one product, which reads the weights once
                hidden_states = torch.cat([hidden_states, conditional.float()])
        if self.sampled:
            self._count(self.sampled, mixed=self.branches == 2)
            self.sampled = None
        logits = head(hidden_states.float())
        if logits is None:
            return None
        logits = logits.float()
        if rows and rows.any_min_p:
            conditional = logits[-count:] if self.branch_logits is None else self.branch_logits[:, 0]
            logits = exclude_implausible(logits[:count], conditional, self.min_p[rows.slots])
        logits = pad_vocab(logits, self.vocab_size)
        if rows is None or not rows.any_forced:
            return logits
        return force_tokens(logits, self.forced[rows.slots, rows.tokens])

    def _branch_logits(self, hidden_states: Tensor, head: Callable[[Tensor], Tensor | None]) -> Tensor | None:
        count, width = hidden_states.shape
        logits = head(hidden_states.float().view(2 * count, width // 2))
        return None if logits is None else logits.float().view(count, 2, -1)

    def write_branch_logprobs(self, output: SamplerOutput, slots: np.ndarray) -> None:
        """Adds the log-probabilities of the branches to what was sampled.

        Args:
            slots: [n], the request of each row, on the host.
        """
        branch_logits, self.branch_logits = self.branch_logits, None
        if branch_logits is None:
            return
        assert output.logprobs_tensors is not None
        wanted = async_tensor_h2d(self.wants_branches[slots], device=self.device)
        codes = output.sampled_token_ids[:, 0].long()
        write_branch_logprobs(output.logprobs_tensors, codes, branch_logits, wanted)

    def _count(self, sampled: Sampled, mixed: bool) -> None:
        tokens = sampled.lengths + 1 - sampled.counts - self.prompt_lens[sampled.slots]
        for slot, token, count in zip(sampled.slots.tolist(), tokens.tolist(), sampled.counts.tolist(), strict=True):
            if image := self.images.get(slot):
                image.sample(max(0, token), mixed=mixed and slot not in self.entered, count=count)


class BranchSamplerV2:
    """vLLM's sampler, which also returns the log-probabilities of the branches to requests that want them."""

    def __init__(self, sampler: SamplerV2, guidance: GuidanceV2) -> None:
        self.sampler, self.guidance = sampler, guidance

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sampler, name)

    def __call__(self, logits: Tensor, input_batch: InputBatch) -> SamplerOutput:
        output = self.sampler(logits, input_batch)
        slots = np.repeat(input_batch.idx_mapping_np, np.diff(input_batch.cu_num_logits_np))
        self.guidance.write_branch_logprobs(output, slots)
        return output


class LlamaGenModelState(DefaultModelState):
    """Connects `GuidanceV2` to the runner's hooks, and tells the model which positions of a prompt are text."""

    def __init__(
        self, vllm_config: VllmConfig, model: LlamaGenForCausalLM, encoder_cache: Any, device: torch.device
    ) -> None:
        super().__init__(vllm_config, model, encoder_cache, device)
        self.guidance = model.guidance = GuidanceV2(vllm_config, device)
        self.window: WindowSampler | None = None

    def add_request(self, req_index: int, new_req_data: NewRequestData) -> None:
        request = self._mark_text(new_req_data)
        super().add_request(req_index, request)
        assert request.prefill_token_ids is not None
        assert request.sampling_params is not None
        done = len(request.prefill_token_ids) - request.prompt_len
        is_image = not request.req_id.startswith("_")  # vLLM's own, to warm up, are called _warmup and the like
        self.guidance.enter(req_index, request.sampling_params, request.prompt_len, done, is_image)

    def _mark_text(self, request: NewRequestData) -> NewRequestData:
        """Gives the text of a prompt the id that the model knows it by: vLLM has replaced it by 0."""
        embeds, is_token, ids = request.prompt_embeds, request.prompt_is_token_ids, request.prefill_token_ids
        if self.rope_state is None or embeds is None or ids is None:
            return request
        num_text = len(embeds) if is_token is None else is_token.count(False)
        return replace(request, prefill_token_ids=[self.guidance.codebook_size] * num_text + list(ids[num_text:]))

    def apply_staged_writes(self) -> None:
        super().apply_staged_writes()
        self.guidance.write()

    def preprocess_state(self, input_batch: InputBatch, *args: Any, **kwargs: Any) -> None:
        super().preprocess_state(input_batch, *args, **kwargs)  # real steps only; dummy runs leave this hook out
        slots = input_batch.idx_mapping_np
        lengths = input_batch.seq_lens_cpu_upper_bound.numpy()[: len(slots)]
        self.guidance.expect(Sampled(slots, lengths, np.diff(input_batch.cu_num_logits_np)))
        if self.window:
            self.window.write_drafts(input_batch)

    def prepare_inputs(self, input_batch: InputBatch, req_states: RequestState) -> dict[str, Any]:
        positions = input_batch.positions[input_batch.logits_indices]
        self.guidance.begin(input_batch.expanded_idx_mapping, positions, input_batch.idx_mapping_np)
        return super().prepare_inputs(input_batch, req_states)

    def custom_sampler(self, sampler: SamplerV2) -> tuple[BranchSamplerV2 | WindowSampler, WindowSampler | None]:
        branch_sampler = BranchSamplerV2(sampler, self.guidance)
        if not self.vllm_config.num_speculative_tokens:
            return branch_sampler, None
        self.window = WindowSampler(branch_sampler, self.guidance, self.vllm_config.num_speculative_tokens)
        return self.window, self.window
