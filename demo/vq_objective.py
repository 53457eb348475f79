"""LlamaGen's objective for an image tokenizer (official ``tokenizer_image/vq_model.py`` and ``vq_loss.py``).

The codes are those of the nearest codebook vectors; gradients pass straight through to the encoder. The codebook loss
moves the vectors to the encoder's features, the commitment loss the features to their vectors. The official perceptual
and adversarial losses need a trained network each and are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llamagen_tokenizer.model import VQModel

COMMITMENT_WEIGHT = 0.25
"""Weight of the commitment loss, the official ``commit_loss_beta``."""


@dataclass(frozen=True)
class VQLosses:
    """Losses of a batch, and what the codebook needs to know about it."""

    reconstruction: Tensor
    """Scalar: mean absolute error plus half the mean squared error of the pixels in [-1, 1]."""
    codebook: Tensor
    commitment: Tensor
    codes: Tensor
    """int64 [B * h * w]."""
    features: Tensor
    """Encoder's features with their gradients, float32 [B * h * w, D], of unit length if the codebook's vectors are."""
    psnr: float
    """PSNR of the whole batch in dB."""

    @property
    def total(self) -> Tensor:
        return self.reconstruction + self.codebook + COMMITMENT_WEIGHT * self.commitment


def vq_losses(model: VQModel, images: Tensor, weights: Tensor | None = None) -> VQLosses:
    """Computes the losses of images, float32 [B, 3, H, W] in [-1, 1].

    Args:
        weights: float32 [B, 1, H, W], weights of the pixels in the reconstruction loss; by default 1.
    """
    grid = model.quant_conv(model.encoder(images))
    features = grid.float().permute(0, 2, 3, 1)
    if model.quantize.l2_norm:
        features = F.normalize(features, dim=-1)
    codebook = model.quantize.codebook()
    with torch.no_grad():
        codes = model.quantize.encode(grid.float())
    vectors = F.embedding(codes, codebook)
    passed = (features + (vectors - features).detach()).permute(0, 3, 1, 2)
    difference = model.decoder(model.post_quant_conv(passed)).float() - images
    error = difference.abs() + 0.5 * difference.square()
    reconstruction = error.mean() if weights is None else (weights * error).mean() / weights.mean()
    return VQLosses(
        reconstruction,
        F.mse_loss(vectors, features.detach()),
        F.mse_loss(features, vectors.detach()),
        codes.flatten(),
        features.flatten(0, 2),
        float(-10.0 * torch.log10(difference.detach().square().mean() / 4.0)),
    )


@torch.no_grad()
def start_official(model: VQModel) -> None:
    """Samples the codebook as the official code does: uniform in a cube of side 2 / codebook_size, then normalised."""
    table, size = model.quantize.embedding.weight, model.config.codebook_size
    nn.init.uniform_(table, -1.0 / size, 1.0 / size)
    if model.quantize.l2_norm:
        table.copy_(F.normalize(table, dim=-1))


@torch.no_grad()
def start_from_features(model: VQModel, images: Tensor) -> None:
    """Takes the codebook's vectors from the features of images, float32 [B, 3, H, W], with a little noise.

    Raises:
        ValueError: the images have fewer features than the codebook has vectors.
    """
    features = model.quant_conv(model.encoder(images)).float().permute(0, 2, 3, 1).flatten(0, 2)
    size = model.config.codebook_size
    if len(features) < size:
        raise ValueError(f"{len(features)} features for {size} vectors of the codebook")
    chosen = F.normalize(features, dim=-1)[torch.randperm(len(features))[:size]]
    model.quantize.embedding.weight.copy_(F.normalize(chosen + 0.01 * torch.randn_like(chosen), dim=-1))


class Restarts:
    """Replaces codes that are no longer used by features that the codebook fits badly.

    Args:
        patience: steps without use after which a code counts as dead.
        every: steps from one replacement to the next.
    """

    def __init__(self, codebook_size: int, patience: int = 60, every: int = 20) -> None:
        self.age = torch.zeros(codebook_size)
        """Steps since each code was used."""
        self.patience, self.every = patience, every

    @torch.no_grad()
    def after_step(self, step: int, table: nn.Parameter, losses: VQLosses, optimizer: torch.optim.Optimizer) -> Tensor:
        """Counts the codes of a batch, and returns the codes that were replaced, int64 [n]."""
        self.age += 1
        self.age[losses.codes.unique()] = 0
        dead = (self.age > self.patience).nonzero()[:, 0]
        if step % self.every or not len(dead):
            return dead[:0]
        fit = (losses.features * F.embedding(losses.codes, F.normalize(table, dim=-1))).sum(-1)
        dead = dead[: len(losses.features) // 4]
        table[dead] = losses.features[torch.multinomial((1 - fit).clamp(min=1e-6), len(dead))]
        self.age[dead] = 0
        if state := optimizer.state.get(table):
            state["exp_avg"][dead] = 0
            state["exp_avg_sq"][dead] = state["exp_avg_sq"].mean()
        return dead
