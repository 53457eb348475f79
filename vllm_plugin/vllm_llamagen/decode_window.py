"""Several tokens in a step, exactly: Jacobi iteration with the noise of vLLM's V2 sampler.

Noise there is a function of seed, position and code. So a step can read a window of guessed tokens and draw, after each
of them, the token that decoding one by one would draw after that prefix. Guesses that equal the draws are right, and so
is the draw after them. The draws behind the first wrong guess are the guesses of the next step. The image is the one
that decoding one by one gives.

The scheme is speculative Jacobi decoding (arXiv 2410.01699), with draws that are coupled by their noise (arXiv
2408.07978) in place of a test of probabilities, which is exact in distribution only. vLLM's speculative decoding
carries it: the drafts of its ``ngram_gpu`` speculator are replaced by ours, its rejection sampler by `WindowSampler`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vllm_llamagen.vllm_compat import get_num_sampled_and_rejected

if TYPE_CHECKING:
    from vllm_llamagen.runner_v2 import BranchSamplerV2, GuidanceV2
    from vllm_llamagen.vllm_compat import InputBatch, SamplerOutput


class WindowSampler:
    """Stands in for vLLM's sampler and for its rejection sampler. Everything else is the sampler's."""

    enable_adaptive_verification = False

    def __init__(self, sampler: BranchSamplerV2, guidance: GuidanceV2, window: int) -> None:
        """``window``: guessed tokens of a request in a step, at most."""
        # Other samplers' noise does not depend on the position alone.
        sampler.sampler.use_flashinfer = sampler.sampler.use_xpu_sampler = False
        self.sampler, self.guidance = sampler, guidance
        states = sampler.req_states
        self.drafts = torch.zeros((states.max_num_reqs, window), dtype=torch.int64, device=states.device)
        """The guesses of each request for its next step."""
        self.columns = torch.arange(window + 1, device=states.device)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sampler, name)

    def write_drafts(self, input_batch: InputBatch) -> None:
        """Writes the guesses into the tokens that the step reads, where vLLM has written its own."""
        if not input_batch.num_draft_tokens:
            return
        rows, column = input_batch.logits_indices, input_batch.expanded_local_pos.long()
        ids = input_batch.input_ids[rows]
        drafts = self.drafts[input_batch.expanded_idx_mapping, (column - 1).clamp_(min=0)]
        input_batch.input_ids[rows] = torch.where(column > 0, drafts.to(ids.dtype), ids)

    def __call__(
        self, logits: Tensor, input_batch: InputBatch, draft_logits: Any = None, invalid_drafts: Any = None
    ) -> SamplerOutput:
        """Draws a token from each row of ``logits`` [rows, vocab_size], and accepts the guesses that are right.

        ``draft_logits`` and ``invalid_drafts`` are for other kinds of drafts.
        """
        output = self.sampler(logits, input_batch)
        n, slots = input_batch.num_reqs, input_batch.idx_mapping
        first = input_batch.cu_num_logits[:n].long()
        count = input_batch.cu_num_logits[1 : n + 1].long() - first
        row = (first[:, None] + self.columns).clamp_(max=len(logits) - 1)
        is_row = self.columns < count[:, None]
        draws = output.sampled_token_ids.view(-1).long()[row]
        read = input_batch.logits_indices[row]
        position = input_batch.positions[read[:, 0]]
        prefill_len = self.sampler.req_states.prefill_len.gpu
        # vLLM may pad the last token of a prompt with drafts that nobody has guessed.
        is_guess = is_row[:, 1:] & (position >= prefill_len[slots])[:, None]
        right = is_guess & (input_batch.input_ids[read[:, 1:]].long() == draws[:, :-1])
        accepted = right.long().cumprod(1).sum(1)
        num_sampled, num_rejected = get_num_sampled_and_rejected(
            (accepted + 1).to(torch.int32), input_batch.seq_lens, input_batch.cu_num_logits, slots, prefill_len
        )
        drafts = self._guess(slots, position, draws, count, accepted)
        self.drafts[slots] = torch.where((num_sampled > 0)[:, None], drafts, self.drafts[slots])
        output.sampled_token_ids, output.num_sampled, output.num_rejected = draws * is_row, num_sampled, num_rejected
        return output

    def _guess(self, slots: Tensor, position: Tensor, draws: Tensor, count: Tensor, accepted: Tensor) -> Tensor:
        """Returns guesses for the tokens after the last one accepted.

        They are, in this order of preference: the request's forced tokens, the draws of this step, the token before.

        Args:
            slots: [n], the requests.
            position: [n], of the first token that each request reads.
            draws: [n, window + 1].
            count: [n], draws of each request.
            accepted: [n], guesses that were right.

        Returns:
            [n, window], int64.
        """
        ahead = accepted[:, None] + self.columns[1:]  # the index of each guess among the draws
        last = (count - 1)[:, None]
        known = torch.where(ahead <= last, draws.gather(1, ahead.clamp(max=self.columns[-1])), -1)
        token = (position + self.guidance.offset[slots])[:, None] + ahead
        forced = self.guidance.forced[slots[:, None], token.clamp_(0, self.guidance.num_tokens - 1)]
        known = torch.where(forced >= 0, forced, known)
        known = torch.cat([draws.gather(1, last), known], dim=1)
        source = torch.where(known >= 0, self.columns, 0).cummax(1).values
        return known.gather(1, source)[:, 1:]
