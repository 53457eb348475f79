"""Training of the codebook by moving averages, which the tokenizer's inference code has no need of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from llamagen_tokenizer.layers import VectorQuantizer

DECAY = 0.99
DEAD_BELOW = 0.2
"""A code with a smaller moving count is moved to a feature that is badly served."""


class CodebookTrainer:
    """Keeps the rows of a codebook at the mean direction of the features that they stand for.

    The k-means update of VQ-VAE (arXiv 1711.00937, appendix A.1) on the unit sphere.
    """

    def __init__(self, quantizer: VectorQuantizer) -> None:
        self.quantizer = quantizer
        self.counts = torch.ones(quantizer.embedding.num_embeddings)
        self.sums = F.normalize(quantizer.embedding.weight.detach().clone(), dim=-1)

    @torch.no_grad()
    def start_from(self, features: Tensor) -> None:
        """Places every code on one of the unit-length features [N, D], with a little noise."""
        size = self.quantizer.embedding.num_embeddings
        picks = features[torch.randint(len(features), (size,))]
        self.sums = F.normalize(picks + 0.01 * torch.randn_like(picks), dim=-1)
        self.counts = torch.ones(size)
        self.quantizer.embedding.weight.copy_(self.sums)

    @torch.no_grad()
    def update(self, features: Tensor, codes: Tensor) -> int:
        """One step with unit-length features [N, D] and their codes [N]. Gives the number of revived codes."""
        self.counts.mul_(DECAY).index_add_(0, codes, torch.full((len(codes),), 1.0 - DECAY))
        self.sums.mul_(DECAY).index_add_(0, codes, (1.0 - DECAY) * features)
        per_step = len(codes) / len(self.counts)
        dead = torch.nonzero(self.counts < DEAD_BELOW * per_step).flatten()
        self._revive(dead, features, codes, per_step)
        self.quantizer.embedding.weight.copy_(F.normalize(self.sums, dim=-1))
        return len(dead)

    def _revive(self, dead: Tensor, features: Tensor, codes: Tensor, per_step: float) -> None:
        """Moves dead codes to features of this step, the more likely the worse they are served."""
        error = (features - F.embedding(codes, self.quantizer.codebook())).square().sum(-1)
        dead = dead[: int((error > 1e-4).sum())]
        if len(dead):
            picks = torch.multinomial(error + 1e-8, len(dead))
            self.sums[dead] = features[picks] * per_step
            self.counts[dead] = per_step

    def state_dict(self) -> dict[str, Tensor]:
        return {"counts": self.counts, "sums": self.sums}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.counts, self.sums = state["counts"], state["sums"]
