"""Shares knowledge between similar codes while the language model is trained.

In an ordinary embedding table all codes are equally different, and each embedding learns only from the few occurrences
of its own code. Here an embedding is the usual trained vector plus a trained projection of the code's features, so that
everything learned about one red circle applies to all. After training the sums become ordinary tables.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from demo.model import GPT


class AddFeatures(nn.Module):
    """Parametrization of a table [N, dim]: adds a trained projection of features [N, F]."""

    def __init__(self, features: Tensor, dim: int) -> None:
        super().__init__()
        self.register_buffer("features", features)
        self.projection = nn.Parameter(0.02 * torch.randn(features.shape[1], dim))

    def forward(self, table: Tensor) -> Tensor:
        return table + self.features @ self.projection


def add_features(gpt: GPT, features: Tensor) -> None:
    """Adds projected features to the input embeddings and to the output projection.

    Args:
        features: float32 [vocab_size, F], what each code shows.
    """
    for module in (gpt.tok_embeddings, gpt.output):
        parametrize.register_parametrization(module, "weight", AddFeatures(features, gpt.config.dim))


def merge_features(gpt: GPT) -> None:
    """Replaces the sums by ordinary tables under their official names."""
    for module in (gpt.tok_embeddings, gpt.output):
        parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
