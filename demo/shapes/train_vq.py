"""Trains the image tokenizer on rendered scenes.

    python -m demo.shapes.train_vq --out demo/runs/vq32 --minutes 8
    python -m demo.shapes.train_vq --from demo/runs/vq32/checkpoint.pt --out demo/runs/vq64 --minutes 8
    python -m demo.shapes.train_vq --from demo/runs/vq64/checkpoint.pt --out demo/runs/vq128 --minutes 14

The code of each patch is fixed before training (`demo.shapes.patches`). The encoder learns to classify patches: its
vector must be nearer to the codebook vector of the patch's code than to any other. The decoder learns to reconstruct
the patches from these codebook vectors.

An image has 8 x 8 image tokens from the start, but the first run sees it at 32 px and each further run at twice the
size (`demo.vq_init`), so that most is learned where a step is cheap. The decoder's output level has 64 channels because
GroupNorm has 32 groups: with one channel per group it would remove the mean of every channel, and with it the colour
of plain areas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from demo.shapes.patches import GRID, patch_table
from demo.shapes.scenes import render, sample_scene
from demo.training import Budget, Trainer, autocast, run_image_tokenizer
from demo.vq_init import grown, initialised
from llamagen_tokenizer.config import VQConfig
from llamagen_tokenizer.model import VQModel, from_uint8

CONFIG = VQConfig(  # for images of 32 px
    codebook_size=len(patch_table()),
    codebook_embed_dim=8,
    encoder_ch_mult=(1, 2, 4),
    decoder_ch_mult=(2, 2, 6),
    z_channels=64,
    ch=32,
    num_res_blocks=1,
    dtype="bfloat16",
)
BATCHES = {4: 32, 8: 16, 16: 8}
"""Images per step, by the pixels per image token along one side."""
LOGIT_SCALE = 20.0
"""Factor from cosines, between an encoder's vector and the codebook vectors, to logits of the codes."""
CLASSIFICATION_WEIGHT = 0.1
"""Weight of the classification loss relative to the reconstruction loss."""
PLAIN_WEIGHT = 0.1
"""Weight of plain background in the classification loss: most patches are plain, and these are soon learned."""
OBJECT_WEIGHT = 10.0
"""Weight of patches with objects in the reconstruction loss, relative to plain background."""


def prepare(pixels: Sequence[np.ndarray], config: VQConfig) -> Tensor:
    """Converts rendered scenes to model input, float32 [B, 3, S, S] in [-1, 1], of the size with 8 x 8 image tokens.

    Args:
        pixels: B arrays, uint8 [IMAGE_SIZE, IMAGE_SIZE, 3].
    """
    return shrink(from_uint8(torch.from_numpy(np.stack(pixels))), GRID * config.downsample)


def shrink(images: Tensor, size: int) -> Tensor:
    """Reduces images [B, 3, S, S] to [B, 3, size, size] by averaging; ``size`` divides S."""
    return F.avg_pool2d(images, images.shape[-1] // size)


class VQTrainer(Trainer):
    """Trains from random weights at the smallest image size, or a model grown to twice the size of a trained one."""

    def __init__(self, budget: Budget, seed: int = 0, peak_lr: float = 1e-3, smaller: VQModel | None = None) -> None:
        torch.manual_seed(seed)
        self.patches = patch_table()
        model = grown(smaller) if smaller else initialised(CONFIG, self.patches.components(CONFIG.codebook_embed_dim))
        self.batch = BATCHES[model.config.downsample]
        optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, 0.99), fused=True)
        super().__init__(model, asdict(model.config), [optimizer], budget, seed, peak_lr)

    def loss(self) -> tuple[Tensor, dict[str, float]]:
        renders = [render(sample_scene(self.rng)) for _ in range(self.batch)]
        codes = self.patches.batch_codes(renders)
        images = prepare(renders, self.model.config)
        classification, accuracy = self._classification(images, codes)
        reconstruction, psnr = reconstruction_loss(self.model, images, codes)
        values = {"reconstruction": reconstruction.item(), "classification": classification.item()}
        return reconstruction + CLASSIFICATION_WEIGHT * classification, {**values, "accuracy": accuracy, "psnr": psnr}

    def _classification(self, images: Tensor, codes: Tensor) -> tuple[Tensor, float]:
        """Cross-entropy of the codes given images [B, 3, S, S], and the accuracy on patches with objects."""
        with autocast():
            vectors = self.model.quant_conv(self.model.encoder(images))
        vectors = F.normalize(vectors.float(), dim=1).permute(0, 2, 3, 1).flatten(0, 2)  # [B * GRID * GRID, D]
        cosines = vectors @ self.model.quantize.codebook().T
        targets = codes.flatten()
        weights = torch.where(self.patches.plain[targets], PLAIN_WEIGHT, 1.0)
        loss = F.cross_entropy(LOGIT_SCALE * cosines, targets, reduction="none")
        hits = (cosines.argmax(1) == targets)[~self.patches.plain[targets]]
        return (weights * loss).sum() / weights.sum(), hits.float().mean().item()


def reconstruction_loss(model: VQModel, images: Tensor, codes: Tensor) -> tuple[Tensor, float]:
    """Weighted error of the images decoded from codes, a scalar, and their unweighted PSNR in dB.

    Args:
        images: float32 [B, 3, S, S] in [-1, 1].
        codes: int64 [B, GRID * GRID].
    """
    vectors = model.quantize.decode(codes.view(-1, GRID, GRID))
    with autocast():
        decoded = model.decoder(model.post_quant_conv(vectors))
    difference = decoded.float() - images
    weights = torch.where(patch_table().plain[codes], 1.0, OBJECT_WEIGHT).view(-1, 1, GRID, GRID)
    weights = F.interpolate(weights, images.shape[-2:])
    error = (weights * (difference.abs() + 0.5 * difference.square())).mean() / weights.mean()
    return error, float(-10.0 * torch.log10(difference.detach().square().mean() / 4.0))


def main() -> None:
    run_image_tokenizer(__doc__, VQTrainer)


if __name__ == "__main__":
    main()
