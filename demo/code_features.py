"""Lets the language model see, while it is trained, which codes look alike.

To a table of embeddings two codes are as different as any others, and each row learns from its own few occurrences.
Here a row is the usual free one plus a trained projection of fixed features of the code's vector in the tokenizer, so
that what is learned of one code holds for its neighbours. Afterwards both are added up into the ordinary table.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from demo.model import GPT

BANDWIDTHS = (1.0, 0.5, 0.25, 0.125)
"""Distances between unit vectors at which the features tell codes apart."""


def fourier_features(codebook: Tensor, count: int) -> Tensor:
    """Random Fourier features of the rows [N, D], normalised to unit length: [N, count], rows of about unit length."""
    generator = torch.Generator().manual_seed(0)
    rows = F.normalize(codebook, dim=-1)
    frequencies = torch.randn(rows.shape[1], count, generator=generator)
    frequencies /= torch.tensor(BANDWIDTHS).repeat_interleave(count // len(BANDWIDTHS))
    phases = 2 * torch.pi * torch.rand(count, generator=generator)
    return torch.cos(rows @ frequencies + phases) * (2 / count) ** 0.5


class AddFeatures(nn.Module):
    """A table [N, dim] plus projected features [N, dim]."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.register_buffer("features", features)
        self.projection = nn.Parameter(0.02 * torch.randn(features.shape[1], features.shape[1]))

    def forward(self, table: Tensor) -> Tensor:
        return table + self.features @ self.projection


def add_features(gpt: GPT, codebook: Tensor) -> None:
    """Makes the tables of codes, at the input and at the output, sums of free rows and projected features."""
    features = fourier_features(codebook, gpt.config.dim)
    for module in (gpt.tok_embeddings, gpt.output):
        parametrize.register_parametrization(module, "weight", AddFeatures(features))


def merge_features(gpt: GPT) -> None:
    """Adds the sums up into ordinary tables under their official names."""
    for module in (gpt.tok_embeddings, gpt.output):
        parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
