"""Guidance in vLLM's V2 model runner, from the model's own state in that runner.

Only the last hidden states differ between the branches of a token, and the head is linear. So they are mixed before the
head, which then has half the rows, and logits are as wide as the vocabulary from the start.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vllm_llamagen.decode_window import WindowSampler
from vllm_llamagen.guidance import Guidance, default_guidance, force_tokens, mix_branches, pad_vocab
from vllm_llamagen.guidance_counts import ImageGuidance
from vllm_llamagen.vllm_compat import DefaultModelState

if TYPE_CHECKING:
    from vllm import SamplingParams

    from vllm_llamagen.model import LlamaGenForCausalLM
    from vllm_llamagen.vllm_compat import InputBatch, NewRequestData, RequestState, SamplerV2, VllmConfig


class Rows(NamedTuple):
    """The rows of logits that a step samples from. A request has several where tokens were guessed ahead."""

    slots: Tensor
    """[n], int64: the request of each row."""
    tokens: Tensor
    """[n], int64: the index in the image of the token that each row samples."""
    any_forced: bool


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
        self.forced = torch.full((size, self.num_tokens), -1, device=device)
        self.offset = torch.zeros(size, dtype=torch.int64, device=device)
        """From a position in the sequence to the index in the image of the token that is sampled after it."""
        self.has_forced = np.zeros(size, dtype=bool)
        self.entered: dict[int, Guidance] = {}
        self.prompt_lens = np.zeros(size, dtype=np.int64)
        self.images: dict[int, ImageGuidance] = {}
        self.rows: Rows | None = None

    def enter(self, slot: int, params: SamplingParams, prompt_len: int, done: int, is_image: bool = True) -> None:
        """Takes in a request. `write` makes it count.

        Args:
            done: number of tokens sampled before a preemption.
            is_image: False for a request of vLLM's own, which is not counted.
        """
        guidance = self.entered[slot] = Guidance.from_params(params, self.default)
        self.has_forced[slot] = bool(guidance.forced_tokens)
        self.prompt_lens[slot] = prompt_len
        self.images.pop(slot, None)
        if is_image:
            asked = any(scale != 1 for scale in guidance.scales(self.num_tokens)[guidance.start_index :])
            self.images[slot] = ImageGuidance(asked, done)

    def write(self) -> None:
        """Writes the requests that entered into the tables."""
        if not self.entered:
            return
        slots = list(self.entered)
        scales = [guidance.scales(self.num_tokens) for guidance in self.entered.values()]
        forced = [guidance.forced(self.num_tokens, self.codebook_size) for guidance in self.entered.values()]
        starts = [guidance.start_index for guidance in self.entered.values()]
        offset = np.array(starts) + 1 - self.prompt_lens[slots]
        index = torch.tensor(slots, device=self.device)
        for table, values in ((self.scales, scales), (self.forced, forced), (self.offset, offset)):
            table[index] = torch.as_tensor(values, dtype=table.dtype, device=self.device)
        self.entered.clear()

    def begin(self, slots: Tensor, positions: Tensor, slots_np: np.ndarray) -> None:
        """Announces the rows of the next `logits`.

        Args:
            slots: [n], the request of each row.
            positions: [n], position in its sequence of the token that each row reads.
            slots_np: the requests of the step, on the host.
        """
        tokens = (positions + self.offset[slots]).clamp_(0, self.num_tokens - 1)
        self.rows = Rows(slots, tokens, bool(self.has_forced[slots_np].any()))

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
            raise RuntimeError("vLLM asks for logits of rows that it has not announced: they would not be guided")
        if self.branches == 2:
            hidden_states = mix_branches(hidden_states, self.scales[rows.slots, rows.tokens])
        logits = head(hidden_states.float())
        if logits is None:
            return None
        logits = pad_vocab(logits.float(), self.vocab_size)
        return force_tokens(logits, self.forced[rows.slots, rows.tokens]) if rows.any_forced else logits

    def note(self, slots_np: np.ndarray, lengths: np.ndarray, counts: np.ndarray) -> None:
        """Notes that tokens of images are sampled now.

        Args:
            slots_np: [requests].
            lengths: [requests], the longest that each sequence can be, with what the step reads of it.
            counts: [requests], rows of each request.
        """
        tokens = lengths + 1 - counts - self.prompt_lens[slots_np]
        for slot, token, count in zip(slots_np.tolist(), tokens.tolist(), counts.tolist(), strict=True):
            if image := self.images.get(slot):
                image.sample(max(0, token), mixed=self.branches == 2 and slot not in self.entered, count=count)


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
        self.guidance.note(slots, lengths, np.diff(input_batch.cu_num_logits_np))
        if self.window:
            self.window.write_drafts(input_batch)

    def prepare_inputs(self, input_batch: InputBatch, req_states: RequestState) -> dict[str, Any]:
        positions = input_batch.positions[input_batch.logits_indices]
        self.guidance.begin(input_batch.expanded_idx_mapping, positions, input_batch.idx_mapping_np)
        return super().prepare_inputs(input_batch, req_states)

    def custom_sampler(self, sampler: SamplerV2) -> tuple[WindowSampler, WindowSampler] | None:
        if not self.vllm_config.num_speculative_tokens:
            return None
        self.window = WindowSampler(sampler, self.guidance, self.vllm_config.num_speculative_tokens)
        return self.window, self.window
