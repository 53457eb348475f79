"""Turns T5 or CLIP rows of a caption into the prompt embeddings of a text model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vllm_llamagen.config import LlamaGenConfig
from vllm_llamagen.weights import TEXT_CONDITION


class TextCondition(nn.Module):
    """The caption projection and the learnt "no caption" rows (official ``CaptionEmbedder``)."""

    uncond_embedding: Tensor

    def __init__(self, config: LlamaGenConfig, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        fc1, fc2, uncond = (weights[name] for name in TEXT_CONDITION)
        self.guidance_streams = config.guidance_streams
        self.fc1 = nn.Parameter(fc1, requires_grad=False)
        self.fc2 = nn.Parameter(fc2, requires_grad=False)
        self.register_buffer("uncond_embedding", uncond)

    def forward(self, rows: Tensor) -> Tensor:
        """Encoder rows of the valid tokens [n, caption_dim] -> prompt embeddings [n, streams * dim].

        The unconditional rows are the last n: the official pipeline pads captions on the left and masks both streams
        with the caption's mask. Padding is dropped instead of masked, which is exact.

        Raises:
            ValueError: there are no rows, or more than the model has positions for.
        """
        limit = len(self.uncond_embedding)
        if not 0 < len(rows) <= limit:
            raise ValueError(f"the caption has {len(rows)} tokens, must have 1 to {limit}")
        streams = [rows.type_as(self.fc1), self.uncond_embedding[limit - len(rows) :]][: self.guidance_streams]
        return torch.cat([self._project(stream) for stream in streams], dim=-1)

    def _project(self, rows: Tensor) -> Tensor:
        return F.linear(F.gelu(F.linear(rows, self.fc1), approximate="tanh"), self.fc2)
