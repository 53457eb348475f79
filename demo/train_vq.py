"""Trains the image tokenizer on rendered scenes.

    python -m demo.train_vq --out demo/runs/vq32 --minutes 14
    python -m demo.train_vq --from demo/runs/vq32/checkpoint.pt --out demo/runs/vq64 --minutes 14
    python -m demo.train_vq --from demo/runs/vq64/checkpoint.pt --out demo/runs/vq128 --minutes 12 --keep-codes

An image of 128 px has 8 x 8 codes from the start, but the first stage sees it at 32 px and each further one at twice
the size (`demo.vq_start`): most is learned where a step is cheap. The output level has 64 channels because GroupNorm
has 32 groups: with one channel per group it would remove every channel's mean, and with it the colour of plain areas.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from demo.codebook import CodebookTrainer
from demo.scenes import Scene, render, sample_scene
from demo.training import (
    Budget,
    Ema,
    learning_rate,
    load_checkpoint,
    log_to,
    rng_state,
    run,
    seed_everything,
    set_learning_rate,
    set_rng_state,
)
from demo.vq_start import fresh, grown
from llamagen_tokenizer.config import VQConfig
from llamagen_tokenizer.model import VQModel, from_uint8, to_uint8

CONFIG = VQConfig(  # of the first stage
    codebook_size=4096,
    codebook_embed_dim=8,
    encoder_ch_mult=(1, 2, 4),
    decoder_ch_mult=(2, 2, 4),
    z_channels=64,
    ch=32,
    num_res_blocks=1,
)
BATCHES = {4: 32, 8: 16, 16: 4}
"""Images per step, by the pixels per code of the stage."""
CONTINUOUS_STEPS = 100
"""Steps at the start without quantisation; the codebook is then laid out over the features."""
COMMITMENT = 0.5
LOCALITY = 2.0
"""Weight of the demand that a cell's features do not depend on what is elsewhere in the image."""
EDGE_WEIGHT = 10.0


def prepare(pixels: Sequence[np.ndarray], config: VQConfig) -> Tensor:
    """Renders, uint8 [IMAGE_SIZE, IMAGE_SIZE, 3] each, as images at the size that gives 8 x 8 codes."""
    return shrink(from_uint8(torch.from_numpy(np.stack(pixels))), 8 * config.downsample)


def hard_scene(rng: random.Random) -> Scene:
    """A scene, more often than not with a small object: those are the hardest to tell apart."""
    scene = sample_scene(rng)
    while all(o.size == "large" for o in scene.objects) and rng.random() < 0.7:
        scene = sample_scene(rng)
    return scene


def change_object(rng: random.Random, scene: Scene) -> Scene:
    """The scene with one object taken away or exchanged for that of another scene."""
    objects = list(scene.objects)
    place = rng.randrange(len(objects))
    objects[place : place + 1] = rng.choice(([], sample_scene(rng).objects[:1]))
    return Scene(scene.background, tuple(objects))


def same_cells(images: Tensor, others: Tensor) -> Tensor:
    """Cells of the 8 x 8 grid in and around which two images are equal, float32 [B, 8, 8]."""
    cell = images.shape[-1] // 8
    differs = (images != others).any(1, keepdim=True).float()
    return 1.0 - F.max_pool2d(differs, cell * 3 // 2, cell, cell // 4)[:, 0]


def shrink(images: Tensor, size: int) -> Tensor:
    """Averages pixels until a side has ``size`` of them."""
    return F.avg_pool2d(images, images.shape[-1] // size)


def edge_weights(images: Tensor) -> Tensor:
    """1 on plain areas, 1 + EDGE_WEIGHT next to an edge, [B, 1, H, W]."""
    low, high = -F.max_pool2d(-images, 3, 1, 1), F.max_pool2d(images, 3, 1, 1)
    return 1.0 + EDGE_WEIGHT * ((high - low).amax(1, keepdim=True) > 0.1).float()


class VQTrainer:
    """The model with all that a step changes.

    Starts from a model for images of half the size where one is given. With ``keep_codes`` its codebook and its choice
    of codes then stay: the decoder learns from those codes and the encoder learns to choose them.
    """

    def __init__(
        self,
        budget: Budget,
        seed: int = 0,
        peak_lr: float = 1e-3,
        start: VQModel | None = None,
        keep_codes: bool = False,
    ) -> None:
        self.budget, self.peak_lr, self.start, self.keep_codes = budget, peak_lr, start, keep_codes
        self.rng = seed_everything(seed)
        self.model = grown(start) if start else fresh(CONFIG)
        self.model.quantize.embedding.weight.requires_grad_(False)
        self.codebook = CodebookTrainer(self.model.quantize)
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(parameters, lr=peak_lr, betas=(0.9, 0.99), fused=True)
        self.ema = Ema(self.model, 0.99 if keep_codes else 0.998)
        self.count = 0

    def sample(self) -> tuple[Tensor, Tensor]:
        """Rendered training images and the same ones with one object changed, float32 [B, 3, size, size] in [-1, 1]."""
        config = self.model.config
        scenes = [hard_scene(self.rng) for _ in range(BATCHES[config.downsample])]
        changed = [change_object(self.rng, scene) for scene in scenes]
        return prepare([render(s) for s in scenes], config), prepare([render(s) for s in changed], config)

    def step(self) -> dict[str, float]:
        """One optimiser step on a fresh batch; gives the figures to log."""
        progress = self.budget.progress(self.count)
        images, changed = self.sample()
        set_learning_rate(self.optimizer, learning_rate(self.peak_lr, self.count, progress))
        decoded, commitment, locality, revived = self._forward(images, changed)
        weights = edge_weights(images)
        difference = decoded - images
        loss = (weights * (difference.abs() + 0.5 * difference.square())).mean() / weights.mean()
        self.optimizer.zero_grad(set_to_none=True)
        (loss + COMMITMENT * commitment + LOCALITY * locality).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.ema.update(self.model, self.count)
        self.count += 1
        psnr = float(-10.0 * torch.log10(difference.detach().square().mean() / 4.0))
        tensors = {"loss": loss, "commitment": commitment, "locality": locality}
        return {name: t.item() for name, t in tensors.items()} | {"psnr": psnr, "revived": revived, "at": progress}

    def _forward(self, images: Tensor, changed: Tensor) -> tuple[Tensor, Tensor, Tensor, int]:
        """Decoded images, commitment loss, locality loss and the number of codes revived."""
        with torch.autocast("cpu", torch.bfloat16):
            raw = self.model.quant_conv(self.model.encoder(torch.cat([images, changed])))
        features, others = F.normalize(raw.float(), dim=1).chunk(2)  # [B, D, 8, 8]
        same = same_cells(images, changed)
        locality = (same * (features - others).square().sum(1)).sum() / same.sum().clamp(min=1.0)
        flat = features.detach().permute(0, 2, 3, 1).reshape(-1, features.shape[1])
        commitment, revived = torch.zeros(()), 0
        if self.start and self.keep_codes:
            features, commitment = self._kept(images, features)
        elif self.start or self.count >= CONTINUOUS_STEPS:
            if not self.start and self.count == CONTINUOUS_STEPS:
                self.codebook.start_from(self._many_features(flat))
            codes = self.model.quantize.encode(features.detach())
            quantised = self.model.quantize.decode(codes)
            revived = self.codebook.update(flat, codes.flatten())
            commitment = (features - quantised).square().sum(1).mean()
            features = features + (quantised - features).detach()
        with torch.autocast("cpu", torch.bfloat16):
            decoded = self.model.decoder(self.model.post_quant_conv(features))
        return decoded.float(), commitment, locality, revived

    def _kept(self, images: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Quantised features of the model that training started from, and the distance of ``features`` to its own."""
        assert self.start is not None
        with torch.no_grad():
            halves = shrink(images, images.shape[-1] // 2)
            wanted = F.normalize(self.start.quant_conv(self.start.encoder(halves)), dim=1)
            quantised = self.start.quantize.decode(self.start.quantize.encode(wanted))
        return quantised, (features - wanted).square().sum(1).mean()

    @torch.no_grad()
    def _many_features(self, first: Tensor) -> Tensor:
        """Unit-length features of several batches, [N, D], enough to lay out the codebook."""
        features = [first]
        while sum(map(len, features)) < 4 * self.model.config.codebook_size:
            raw = self.model.quant_conv(self.model.encoder(self.sample()[0]))
            features.append(F.normalize(raw, dim=1).permute(0, 2, 3, 1).flatten(0, 2))
        return torch.cat(features)

    def state_dict(self) -> dict[str, Any]:
        return {
            "config": asdict(self.model.config),
            "model": self.model.state_dict(),
            "ema": self.ema.values,
            "codebook": self.codebook.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": rng_state(self.rng),
            "step": self.count,
            "elapsed": self.budget.elapsed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.ema.values = state["ema"]
        self.codebook.load_state_dict(state["codebook"])
        self.optimizer.load_state_dict(state["optimizer"])
        set_rng_state(self.rng, state["rng"])
        self.count, self.budget.elapsed = state["step"], state["elapsed"]


def load_trained(path: Path) -> VQModel:
    """The averaged model of a training checkpoint, float32, ready to use."""
    state = load_checkpoint(path)
    if state is None:
        raise FileNotFoundError(f"{path}: no such checkpoint; run python -m demo.train_vq first")
    model = VQModel(VQConfig.from_dict(state["config"]))
    model.load_state_dict(state["ema"])
    return model.eval().requires_grad_(False)


@torch.no_grad()
def reconstruct(model: VQModel, images: Tensor, batch: int = 16) -> np.ndarray:
    """Encodes and decodes images, float32 [N, 3, H, W] in [-1, 1] -> uint8 [N, H, W, 3]."""
    return torch.cat([to_uint8(model.decode(model.encode(part))) for part in images.split(batch)]).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--from", dest="start", type=Path, help="checkpoint of the stage before this one")
    parser.add_argument("--keep-codes", action="store_true", help="train for detail only; the codes stay as they are")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=float)
    length.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    if args.keep_codes and not args.start:
        parser.error("--keep-codes needs --from")
    torch.set_num_threads(args.threads)
    log_to(args.out)
    start = load_trained(args.start) if args.start else None
    run(VQTrainer(Budget(args.steps, args.minutes), args.seed, args.lr, start, args.keep_codes), args.out)


if __name__ == "__main__":
    main()
