"""The caption projection of a text model: hidden states of T5 or CLIP to the engine's prompt embeddings."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vllm_llamagen.config import LlamaGenConfig
from vllm_llamagen.weights import CAPTION_PROJECTION


class CaptionProjection(nn.Module):
    """The caption projection and the learnt unconditional embedding (official ``CaptionEmbedder``)."""

    uncond_embedding: Tensor

    def __init__(self, config: LlamaGenConfig, weights: Mapping[str, Tensor]) -> None:
        """``weights`` holds at least the tensors named in `CAPTION_PROJECTION`."""
        super().__init__()
        fc1, fc2, uncond = (weights[name] for name in CAPTION_PROJECTION)
        self.cfg_branches = config.cfg_branches
        self.fc1 = nn.Parameter(fc1, requires_grad=False)
        self.fc2 = nn.Parameter(fc2, requires_grad=False)
        self.register_buffer("uncond_embedding", uncond)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Hidden states of the prompt's tokens [n, caption_dim] -> prompt embeddings [n, branches * dim].

        The unconditional branch gets the last n rows of ``uncond_embedding``: the official pipeline pads captions on
        the left and masks both branches with the caption's mask. Padding is dropped instead of masked, which is exact.

        Raises:
            ValueError: n is 0, or larger than the model's number of condition tokens.
        """
        limit = len(self.uncond_embedding)
        if not 0 < len(hidden_states) <= limit:
            raise ValueError(f"the prompt has {len(hidden_states)} tokens, must have 1 to {limit}")
        unconditional = self.uncond_embedding[limit - len(hidden_states) :]
        branches = [hidden_states.type_as(self.fc1), unconditional][: self.cfg_branches]
        return torch.cat([self._project(branch) for branch in branches], dim=-1)

    def _project(self, x: Tensor) -> Tensor:
        return F.linear(F.gelu(F.linear(x, self.fc1), approximate="tanh"), self.fc2)
