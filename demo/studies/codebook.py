"""Trains small image tokenizers with codebooks of many dimensions and sizes, and plots how the codebooks are used.

    make study                                  # trains what docs/studies/codebook.jsonl lacks, then plots
    python -m demo.studies.codebook --out DIR --steps 20 --dims 8 256 --sizes 256 --seeds 0    # a small one

Each run has the same network, images of 32 px with 8 x 8 image tokens, the same number of steps and the official start
of the codebook, without any rescue of dead codes. Runs with one seed see the same images.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from demo.emoji import scenes as emoji
from demo.shapes import scenes as shapes
from demo.studies.codebook_plots import plot_all, table
from demo.studies.files import read_results
from demo.training import LOG_FORMAT, Budget, Trainer
from demo.vq_init import pair_output_channels, start_as_identity
from demo.vq_objective import start_official, vq_losses
from llamagen_server.evaluation.codebook import CodebookUsage
from llamagen_server.evaluation.reconstruction import psnr, ssim
from llamagen_tokenizer.config import VQConfig
from llamagen_tokenizer.model import VQModel, from_uint8

logger = logging.getLogger(__name__)

OUT = Path("docs/studies")
DIMS = (4, 8, 16, 32, 256)
SIZES = (256, 1024, 4096, 16384)
SEEDS = (0, 1, 2)
STEPS = 250
BATCH = 16
PEAK_LR = 1e-3
WINDOW = 64
"""Steps without use after which a code counts as dead: 65,536 codes, as many as the official code looks back."""
RECORD_EVERY = 25
"""Steps from one count of the dead codes to the next."""
TEST_IMAGES, TEST_SEED = 2048, 20261128
"""Images that are encoded: 131,072 codes, 8 for each vector of the largest codebook."""
DECODED = 256
"""How many of them are also decoded, for PSNR and SSIM."""
SIDE = 32
"""Side of the images in pixels."""

Render = Callable[[random.Random], np.ndarray]
DATA: dict[str, Render] = {
    "emoji": lambda rng: emoji.render(emoji.sample_scene(rng)),
    "shapes": lambda rng: shapes.render(shapes.sample_scene(rng)),
}


@dataclass(frozen=True)
class Run:
    """One training. ``data`` is a key of `DATA`."""

    data: str
    l2_norm: bool
    seed: int
    dim: int
    size: int

    @property
    def config(self) -> VQConfig:
        return VQConfig(
            codebook_size=self.size,
            codebook_embed_dim=self.dim,
            encoder_ch_mult=(1, 1, 2),
            decoder_ch_mult=(1, 1, 2),
            z_channels=256,  # as many as the widest codebook, so that nothing but the training narrows its vectors
            ch=32,
            num_res_blocks=1,
            codebook_l2_norm=self.l2_norm,
        )


class CodebookTrainer(Trainer):
    """Trains an image tokenizer with LlamaGen's objective, and counts its dead codes."""

    warmup = 25

    def __init__(self, settings: Run, steps: int) -> None:
        torch.manual_seed(settings.seed)
        model = VQModel(settings.config)
        start_as_identity(model)
        pair_output_channels(model)
        start_official(model)
        optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, 0.95), fused=True)
        super().__init__(model, asdict(settings.config), [optimizer], Budget(steps=steps), settings.seed, PEAK_LR)
        self.data = settings.data
        self.start = model.quantize.codebook().detach().clone()
        """The codebook before the training."""
        self.recent: deque[Tensor] = deque(maxlen=WINDOW)
        """Codes of the last steps."""
        self.dead: list[tuple[int, int]] = []
        """Number of dead codes after a number of steps, from the first full window on."""

    def loss(self) -> tuple[Tensor, dict[str, float]]:
        losses = vq_losses(self.model, images(self.data, self.rng, BATCH))
        self.recent.append(losses.codes)
        return losses.total, {"psnr": losses.psnr}

    def step(self) -> dict[str, float]:
        values = super().step()
        if self.count % RECORD_EVERY == 0 and len(self.recent) == WINDOW:
            used = len(torch.cat(list(self.recent)).unique())
            self.dead.append((self.count, self.model.config.codebook_size - used))
        return values


def images(data: str, rng: random.Random, count: int) -> Tensor:
    """New images, float32 [count, 3, SIDE, SIDE] in [-1, 1]."""
    large = from_uint8(torch.from_numpy(np.stack([DATA[data](rng) for _ in range(count)])))
    return F.avg_pool2d(large, large.shape[-1] // SIDE)


@cache
def measured_images(data: str, count: int) -> Tensor:
    """The images that all trainings with this data are measured on, as `images` returns them."""
    return images(data, random.Random(TEST_SEED), count)


def train(settings: Run, steps: int, test_images: int) -> dict[str, Any]:
    """Trains once, with one thread, and measures the last weights on other images."""
    torch.set_num_threads(1)
    began = time.monotonic()
    trainer = CodebookTrainer(settings, steps)
    for _ in range(steps):
        trainer.step()
    seconds = time.monotonic() - began
    return {
        **asdict(settings),
        "steps": steps,
        "test_images": test_images,
        "dead": trainer.dead,
        **measure(trainer.model.eval(), trainer.start, measured_images(settings.data, test_images)),
        "seconds": round(seconds),
    }


@torch.inference_mode()
def measure(model: VQModel, start: Tensor, test: Tensor) -> dict[str, Any]:
    """Measures a trained image tokenizer on images, and how many dimensions its used vectors span.

    Args:
        start: the codebook before the training, [codebook_size, D].
    """
    usage, features = CodebookUsage(model.config.codebook_size), []
    for part in test.split(64):
        grid = model.quant_conv(model.encoder(part))
        usage.add(model.quantize.encode(grid).numpy())
        vectors = grid.permute(0, 2, 3, 1).flatten(0, 2)
        features.append(F.normalize(vectors, dim=-1) if model.quantize.l2_norm else vectors)
    quality = [decoded_quality(model, part) for part in test[:DECODED].split(64)]
    counts = torch.from_numpy(usage.counts)
    used = counts > 0
    vectors, started = model.quantize.codebook()[used], start[used]
    shares = spectrum(vectors, counts[used])
    return {
        "used": usage.used,
        "perplexity": round(usage.perplexity, 1),
        "psnr": round(torch.cat([psnr for psnr, _ in quality]).mean().item(), 2),
        "ssim": round(torch.cat([ssim for _, ssim in quality]).mean().item(), 4),
        "rank": round(effective_rank(shares), 2),
        "rank_unweighted": round(effective_rank(spectrum(vectors)), 2),
        "rank_start": round(effective_rank(spectrum(started)), 2),
        "rank_features": round(effective_rank(spectrum(torch.cat(features))), 2),
        "turned": round(F.cosine_similarity(vectors, started).clamp(-1, 1).acos().rad2deg().median().item(), 1),
        "spectrum": [round(share, 5) for share in shares.tolist()[:32]],
    }


def decoded_quality(model: VQModel, part: Tensor) -> tuple[Tensor, Tensor]:
    """PSNR and SSIM of images after encoding and decoding, [B] each."""
    pair = [(x.clamp(-1, 1) + 1) * 127.5 for x in (part, model.decode(model.encode(part)))]
    return psnr(*pair), ssim(*pair)


def spectrum(vectors: Tensor, counts: Tensor | None = None) -> Tensor:
    """Principal components of vectors [N, D]: their shares of the variance, float64 [D], largest first.

    Args:
        counts: how often each vector occurs, [N]; by default once.
    """
    weights = torch.ones(len(vectors)) if counts is None else counts
    covariance = torch.cov(vectors.double().T, correction=0, fweights=weights.long())
    variances = torch.linalg.eigvalsh(covariance.view(vectors.shape[1], -1)).flip(0).clamp(min=0)
    return variances / variances.sum().clamp(min=1e-30)


def effective_rank(shares: Tensor) -> float:
    """exp(entropy) of shares of the variance, the dimensions that matter (Roy and Vetterli 2007); 0 if all are 0."""
    positive = shares[shares > 0]
    return float(torch.exp(-(positive * positive.log()).sum())) if len(positive) else 0.0


def all_runs(args: argparse.Namespace) -> Iterator[Run]:
    """The runs of the study, those of one seed after the other. Only emoji are also tried without l2 norm."""
    kinds = [("emoji", True), ("emoji", False), ("shapes", True)]
    for (data, l2_norm), seed, size, dim in product(kinds, args.seeds, args.sizes, args.dims):
        if data in args.data:
            yield Run(data, l2_norm, seed, dim, size)


def identity(result: dict[str, Any]) -> tuple[Any, ...]:
    """What distinguishes a run from all others."""
    return tuple(result[name] for name in ("data", "l2_norm", "seed", "dim", "size", "steps", "test_images"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT, help="directory of results and plots")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--dims", type=int, nargs="+", default=DIMS)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--test-images", type=int, default=TEST_IMAGES)
    parser.add_argument("--workers", type=int, default=2, help="trainings at a time, with one thread each")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "codebook.jsonl"
    same = {"steps": args.steps, "test_images": args.test_images}
    done = {identity(result) for result in read_results(path)}
    runs = list(all_runs(args))
    missing = [run for run in runs if identity({**asdict(run), **same}) not in done]
    logger.info("%d of %d runs are missing", len(missing), len(runs))
    with ProcessPoolExecutor(args.workers, mp_context=get_context("spawn")) as pool, path.open("a") as file:
        for future in as_completed([pool.submit(train, run, args.steps, args.test_images) for run in missing]):
            result = future.result()
            file.write(json.dumps(result) + "\n")
            file.flush()
            shown = {name: value for name, value in result.items() if name not in ("dead", "spectrum")}
            logger.info("%s", shown)
    results = [result for result in read_results(path) if same.items() <= result.items()]
    plot_all(results, args.out)
    print(table(results))


if __name__ == "__main__":
    main()
