"""Trains the image tokenizer of the class demo with LlamaGen's objective.

    python -m demo.emoji.train_vq --out demo/runs/emoji-vq32 --steps 1500
    python -m demo.emoji.train_vq --from demo/runs/emoji-vq32/checkpoint.pt --out demo/runs/emoji-vq64 --steps 800 \
        --lr 5e-4

An image has 8 x 8 image tokens from the start, but the first run sees it at 32 px and the second at 64
(`demo.vq_init`).

Codes must be local. An encoder that sees the whole image spends codes on what is elsewhere in it, and the language
model pays for them. So the encoder's attention is zero here, and so are the outer taps of the 3 x 3 convolutions at its
two lowest resolutions: the weights have the official names and shapes, and mean the same to every program. (The trained
weights are set to zero after each step; in their average, which is exported, up to 1e-5 remains.) What is left is
GroupNorm, whose statistics span the image, so a further loss draws the features of all plain patches of a background
together (`plain_spread`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from demo.emoji.scenes import IMAGE_SIZE, PATCH, render, sample_scene
from demo.training import Budget, Trainer, autocast, run_image_tokenizer
from demo.vq_init import grown, pair_output_channels, start_as_identity
from demo.vq_objective import Restarts, start_from_features, vq_losses
from llamagen_tokenizer.config import VQConfig
from llamagen_tokenizer.layers import AttnBlock
from llamagen_tokenizer.model import VQModel, from_uint8

CONFIG = VQConfig(  # for images of 32 px
    codebook_size=2048,
    codebook_embed_dim=8,
    encoder_ch_mult=(1, 2, 4),
    decoder_ch_mult=(2, 4, 4),
    z_channels=64,
    ch=32,
    num_res_blocks=1,
)
GRID = IMAGE_SIZE // PATCH
"""Image tokens per side of an image."""
BATCHES = {4: 16, 8: 8}
"""Images per step, by the pixels per image token along one side."""
OBJECT_WEIGHT = 3.0
"""Weight of pixels of an emoji in the reconstruction loss, relative to the plain background."""
SPREAD_WEIGHT = 10.0
"""Weight of `plain_spread`. With 1, plain background still had eight codes per colour in a batch."""
RESTARTS_END = 0.7
"""Share of the training after which no code is replaced any more."""


def emoji(rng: random.Random) -> np.ndarray:
    """A new image, uint8 [IMAGE_SIZE, IMAGE_SIZE, 3]."""
    return render(sample_scene(rng))


class EmojiVQTrainer(Trainer):
    """Trains from random weights at 32 px, or a model grown to twice the size of a trained one.

    Args:
        source: makes an image, uint8 [S, S, 3], of objects on a plain background, which its first pixel shows.
    """

    def __init__(
        self,
        budget: Budget,
        seed: int = 0,
        peak_lr: float = 1e-3,
        smaller: VQModel | None = None,
        source: Callable[[random.Random], np.ndarray] = emoji,
    ) -> None:
        torch.manual_seed(seed)
        self.source = source
        model = grown(smaller) if smaller else VQModel(CONFIG)
        optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, 0.99), fused=True)
        super().__init__(model, asdict(model.config), [optimizer], budget, seed, peak_lr)
        self.batch = BATCHES[model.config.downsample]
        self.restarts = Restarts(model.config.codebook_size)
        if smaller is None:
            start_as_identity(model)
            pair_output_channels(model)
            make_local(model)
            start_from_features(model, self._images(4 * self.batch))
        else:
            make_local(model)

    def loss(self) -> tuple[Tensor, dict[str, float]]:
        images = self._images(self.batch)
        plain = (images - images[:, :, :1, :1]).abs().amax(1, keepdim=True) < 0.02
        with autocast():
            self.losses = losses = vq_losses(self.model, images, torch.where(plain, 1.0, OBJECT_WEIGHT))
        plain_patches = -F.max_pool2d(-plain.float(), self.model.config.downsample)[:, 0].flatten(1) > 0
        spread = plain_spread(losses.features.unflatten(0, plain_patches.shape), plain_patches, images[:, :, 0, 0])
        values = {
            "reconstruction": losses.reconstruction.item(),
            "codebook": losses.codebook.item(),
            "spread": spread.item(),
            "psnr": losses.psnr,
            "codes": len(losses.codes.unique()),
            "plain_codes": len(losses.codes[plain_patches.flatten()].unique()),
        }
        return losses.total + SPREAD_WEIGHT * spread, values

    def step(self) -> dict[str, float]:
        values = super().step()
        make_local(self.model)
        table = self.model.quantize.embedding.weight
        if values["progress"] < RESTARTS_END:
            replaced = self.restarts.after_step(self.count, table, self.losses, self.optimizers[0])
            self.ema.values["quantize.embedding.weight"][replaced] = table.detach()[replaced]
        return {**values, "alive": int((self.restarts.age <= self.restarts.patience).sum())}

    def _images(self, count: int) -> Tensor:
        """New images, float32 [count, 3, S, S] in [-1, 1]."""
        return prepare([self.source(self.rng) for _ in range(count)], self.model.config)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "age": self.restarts.age}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.restarts.age = state["age"]


def prepare(pixels: list[np.ndarray], config: VQConfig) -> Tensor:
    """Converts images, uint8, to model input, float32 [B, 3, S, S] in [-1, 1], of the size with 8 x 8 image tokens."""
    images = from_uint8(torch.from_numpy(np.stack(pixels)))
    return F.avg_pool2d(images, images.shape[-1] // (GRID * config.downsample))


def plain_spread(features: Tensor, plain: Tensor, colours: Tensor) -> Tensor:
    """Mean squared distance of plain patches' features to the mean of all that have the same background.

    Args:
        features: float32 [B, patches, D].
        plain: bool [B, patches], true where a patch shows nothing but background.
        colours: float32 [B, 3], the backgrounds.
    """
    kinds, background = colours.unique(dim=0, return_inverse=True)
    background = background[:, None].expand_as(plain)[plain]
    features = features[plain]
    members = F.one_hot(background, len(kinds)).to(features)
    means = (members.T @ features) / members.sum(0)[:, None].clamp(min=1)
    return F.mse_loss(features, means[background])


@torch.no_grad()
def make_local(model: VQModel) -> None:
    """Zeroes what lets a code depend on distant pixels: attention, and outer taps at the two lowest resolutions."""
    for module in model.encoder.modules():
        if isinstance(module, AttnBlock):
            nn.init.zeros_(module.proj_out.weight)
            nn.init.zeros_(module.proj_out.bias)
    for convolution in _low_convolutions(model):
        centre = convolution.weight[:, :, 1, 1].clone()
        nn.init.zeros_(convolution.weight)
        convolution.weight[:, :, 1, 1] = centre


def _low_convolutions(model: VQModel) -> Iterator[nn.Conv2d]:
    """The encoder's 3 x 3 convolutions of stride 1 at its two lowest resolutions."""
    encoder = model.encoder
    for part in (encoder.conv_blocks[-2].res, encoder.conv_blocks[-1], encoder.mid, encoder.conv_out):
        for module in part.modules():
            if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
                yield module


def main() -> None:
    run_image_tokenizer(__doc__, EmojiVQTrainer)


if __name__ == "__main__":
    main()
