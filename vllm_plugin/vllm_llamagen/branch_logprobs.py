"""Log-probabilities of each code under both branches, beside that in the distribution that it is sampled from.

vLLM returns, with a code, the log-probabilities of as many likely codes as the request asks for. A request with
``branch_logprobs`` asks for two, and gets in their places what the conditional and the unconditional branch give its
own code. So they take the way of all other output: through preemption, parallel workers and restarts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from vllm_llamagen.vllm_compat import LogprobsTensors

CONDITIONAL, UNCONDITIONAL = -1, -2
"""Ids that stand for the branches in vLLM's output, in place of a code's."""
NUM_LOGPROBS = 2
"""vLLM's ``logprobs`` of a request with ``branch_logprobs``."""


def write_branch_logprobs(output: LogprobsTensors, codes: Tensor, branch_logits: Tensor, wanted: Tensor) -> None:
    """Writes into vLLM's output, in place, what the branches give the sampled codes.

    Args:
        output: of n rows, with at least `NUM_LOGPROBS` columns after the code's own.
        codes: [n], int64, the sampled codes.
        branch_logits: [n, 2, codebook_size], float32, conditional branch first, as the model returns them: no
            temperature, no top-k, no top-p.
        wanted: [n], bool; other rows stay as they are.
    """
    index = codes.clamp(0, branch_logits.shape[2] - 1).view(-1, 1, 1).expand(-1, 2, 1)
    values = branch_logits.log_softmax(-1).gather(2, index).squeeze(2)
    columns, ids = output.logprobs[:, 1 : 1 + NUM_LOGPROBS], output.logprob_token_ids[:, 1 : 1 + NUM_LOGPROBS]
    names = ids.new_tensor([CONDITIONAL, UNCONDITIONAL]).expand_as(ids)
    columns.copy_(values.to(columns.dtype).where(wanted[:, None], columns))
    ids.copy_(names.where(wanted[:, None], ids))
