"""Trains the image tokenizer on rendered scenes.

    python -m demo.train_vq --out demo/runs/vq32 --minutes 8
    python -m demo.train_vq --from demo/runs/vq32/checkpoint.pt --out demo/runs/vq64 --minutes 8
    python -m demo.train_vq --from demo/runs/vq64/checkpoint.pt --out demo/runs/vq128 --minutes 14

Which patch has which code is settled beforehand (`demo.patches`). The encoder learns to name the patches: its vector
must be nearer to the patch's row of the codebook than to any other. The decoder learns to draw them from these rows.

An image of 128 px has 8 x 8 codes from the start, but the first stage sees it at 32 px and each further one at twice
the size (`demo.vq_init`): most is learned where a step is cheap. The output level has 64 channels because GroupNorm
has 32 groups: with one channel per group it would remove every channel's mean, and with it the colour of plain areas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from demo.patches import GRID, patch_table
from demo.scenes import render, sample_scene
from demo.training import Budget, Trainer, load_trained, run, start, training_parser
from demo.vq_init import fresh, grown
from llamagen_tokenizer.config import VQConfig
from llamagen_tokenizer.model import VQModel, from_uint8

CONFIG = VQConfig(  # of the first stage
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
"""Images per step, by the pixels per code of the stage."""
SHARPNESS = 20.0
"""Factor of the cosines between an encoder's vector and the rows of the codebook, as logits of the patch."""
NAMING = 0.1
"""Weight of the naming of patches beside the drawing."""
COMMON = 0.1
"""Weight of a plain background when patches are named: most patches are, and they are soon learned."""
OBJECT_WEIGHT = 10.0
"""Weight of the patches with objects when images are drawn."""


def prepare(pixels: Sequence[np.ndarray], config: VQConfig) -> Tensor:
    """Renders, uint8 [IMAGE_SIZE, IMAGE_SIZE, 3] each, as images at the size that gives 8 x 8 codes."""
    return shrink(from_uint8(torch.from_numpy(np.stack(pixels))), GRID * config.downsample)


def shrink(images: Tensor, size: int) -> Tensor:
    """Averages pixels until a side has ``size`` of them."""
    return F.avg_pool2d(images, images.shape[-1] // size)


class VQTrainer(Trainer):
    """Trains fresh weights at the smallest size, or the double of an already trained model."""

    def __init__(self, budget: Budget, seed: int = 0, peak_lr: float = 1e-3, smaller: VQModel | None = None) -> None:
        torch.manual_seed(seed)
        self.patches = patch_table()
        model = grown(smaller) if smaller else fresh(CONFIG, self.patches.components(CONFIG.codebook_embed_dim))
        self.batch = BATCHES[model.config.downsample]
        optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, 0.99), fused=True)
        super().__init__(model, asdict(model.config), [optimizer], budget, seed, peak_lr)

    def loss(self) -> tuple[Tensor, dict[str, float]]:
        renders = [render(sample_scene(self.rng)) for _ in range(self.batch)]
        codes = torch.from_numpy(np.stack([self.patches.codes(r) for r in renders]))
        images = prepare(renders, self.model.config)
        named, right = self._naming(images, codes)
        difference = self._drawn(codes) - images
        weights = torch.where(self.patches.plain[codes], 1.0, OBJECT_WEIGHT).view(-1, 1, GRID, GRID)
        weights = F.interpolate(weights, images.shape[-2:])
        drawn = (weights * (difference.abs() + 0.5 * difference.square())).mean() / weights.mean()
        psnr = float(-10.0 * torch.log10(difference.detach().square().mean() / 4.0))
        return drawn + NAMING * named, {"drawn": drawn.item(), "named": named.item(), "right": right, "psnr": psnr}

    def _naming(self, images: Tensor, codes: Tensor) -> tuple[Tensor, float]:
        """Cross-entropy of the patches that images show, and the share of the objects' patches that get their code."""
        with torch.autocast("cpu", torch.bfloat16):
            vectors = self.model.quant_conv(self.model.encoder(images))
        vectors = F.normalize(vectors.float(), dim=1).permute(0, 2, 3, 1).flatten(0, 2)  # [B * 64, D]
        cosines = vectors @ self.model.quantize.codebook().T
        wanted = codes.flatten()
        weights = torch.where(self.patches.plain[wanted], COMMON, 1.0)
        loss = F.cross_entropy(SHARPNESS * cosines, wanted, reduction="none")
        hits = (cosines.argmax(1) == wanted)[~self.patches.plain[wanted]]
        return (weights * loss).sum() / weights.sum(), hits.float().mean().item()

    def _drawn(self, codes: Tensor) -> Tensor:
        """Images decoded from codes [B, 64], float32 [B, 3, H, W]."""
        rows = self.model.quantize.decode(codes.view(-1, GRID, GRID))
        with torch.autocast("cpu", torch.bfloat16):
            images: Tensor = self.model.decoder(self.model.post_quant_conv(rows))
        return images.float()


def load_trained_vq(path: Path) -> VQModel:
    """The averaged model of a training checkpoint, float32, ready to use."""
    state = load_trained(path)
    model = VQModel(VQConfig.from_dict(state["config"]))
    model.load_state_dict(state["ema"])
    return model.eval().requires_grad_(False)


def main() -> None:
    parser = training_parser(__doc__, peak_lr=1e-3)
    parser.add_argument("--from", dest="smaller", type=Path, help="checkpoint of the stage before this one")
    args = parser.parse_args()
    start(args)
    smaller = load_trained_vq(args.smaller) if args.smaller else None
    run(VQTrainer(Budget(args.steps, args.minutes), args.seed, args.lr, smaller), args.out)


if __name__ == "__main__":
    main()
