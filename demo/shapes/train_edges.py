"""Trains what decodes the edges: the two largest levels of the image tokenizer's decoder. All other weights stay.

    python -m demo.shapes.train_edges --from demo/runs/vq128/checkpoint.pt --out demo/runs/edges --steps 600

After `demo.shapes.train_vq`, small squares still have round corners, and two objects that almost touch run together. A
step for these levels alone takes a third of the time of one for the whole network.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from demo.checkpoint import load_trained_vq
from demo.shapes.patches import patch_table
from demo.shapes.scenes import render, sample_scene
from demo.shapes.train_vq import BATCHES, prepare, reconstruction_loss
from demo.training import Budget, Trainer, run, set_up, training_parser
from llamagen_tokenizer.checkpoint import load_vq
from llamagen_tokenizer.model import VQModel

LEVELS = 2
"""Levels of the decoder that are trained, those of the largest images."""


class EdgeTrainer(Trainer):
    """Trains the last levels of the decoder of ``model``."""

    def __init__(self, model: VQModel, budget: Budget, seed: int = 0, peak_lr: float = 5e-4) -> None:
        decoder = model.requires_grad_(False).decoder
        for part in (*decoder.conv_blocks[-LEVELS:], decoder.norm_out, decoder.conv_out):
            part.requires_grad_(True)
        # PyTorch 2.13 crashes in the backward pass of a GroupNorm whose input needs no gradient and is channels-last.
        decoder.conv_blocks[-LEVELS].res[0].norm1.requires_grad_(False)
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        optimizer = torch.optim.Adam(trained, betas=(0.9, 0.99), fused=True)
        super().__init__(model, asdict(model.config), [optimizer], budget, seed, peak_lr)
        self.batch = BATCHES[model.config.downsample]

    def loss(self) -> tuple[Tensor, dict[str, float]]:
        renders = [render(sample_scene(self.rng)) for _ in range(self.batch)]
        codes = patch_table().batch_codes(renders)
        loss, psnr = reconstruction_loss(self.model, prepare(renders, self.model.config), codes)
        return loss, {"psnr": psnr}


def main() -> None:
    parser = training_parser(__doc__, peak_lr=5e-4)
    parser.add_argument(
        "--from",
        dest="trained",
        type=Path,
        required=True,
        help="the image tokenizer: a checkpoint, or vq/ of a model directory",
    )
    args = parser.parse_args()
    set_up(args)
    load = load_vq if args.trained.is_dir() else load_trained_vq
    run(EdgeTrainer(load(args.trained).float(), Budget(args.steps, args.minutes), args.seed, args.lr), args.out)


if __name__ == "__main__":
    main()
