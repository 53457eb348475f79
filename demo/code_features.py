"""Lets the language model see, while it is trained, what codes have in common.

To a table of embeddings two codes are as different as any others, and each row learns from its own few occurrences.
Here a row is the usual free one plus a trained projection of what the code's patch shows, so that what is learned of
one red circle holds for all. Afterwards both are added up into the ordinary table.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from demo.model import GPT


class AddFeatures(nn.Module):
    """A table [N, dim] plus the projection of features [N, F]."""

    def __init__(self, features: Tensor, dim: int) -> None:
        super().__init__()
        self.register_buffer("features", features)
        self.projection = nn.Parameter(0.02 * torch.randn(features.shape[1], dim))

    def forward(self, table: Tensor) -> Tensor:
        return table + self.features @ self.projection


def add_features(gpt: GPT, features: Tensor) -> None:
    """Makes the tables of codes, at the input and at the output, sums of free rows and projected features.

    ``features`` is float32 [vocab_size, F], see `demo.patches.PatchTable`.
    """
    for module in (gpt.tok_embeddings, gpt.output):
        parametrize.register_parametrization(module, "weight", AddFeatures(features, gpt.config.dim))


def merge_features(gpt: GPT) -> None:
    """Adds the sums up into ordinary tables under their official names."""
    for module in (gpt.tok_embeddings, gpt.output):
        parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
