"""Trains the language model together with its text encoder on the codes of rendered scenes.

    python -m demo.train_ar --vq demo/runs/vq/checkpoint.pt --out demo/runs/ar --minutes 45

The scenes are encoded once; their captions are worded anew each time a scene is drawn.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from demo.captions import sample_caption, sample_split
from demo.code_features import add_features, merge_features
from demo.model import GPT, GPTConfig
from demo.scenes import Scene, render
from demo.text import TextEncoder
from demo.train_vq import load_trained, prepare
from demo.training import (
    Budget,
    Ema,
    learning_rate,
    load_checkpoint,
    log_to,
    rng_state,
    run,
    save_checkpoint,
    seed_everything,
    set_learning_rate,
    set_rng_state,
)
from llamagen_tokenizer.model import VQModel

CONFIG = GPTConfig()
BATCH = 64
NUM_SCENES = 60000
"""With 16000 the model began to learn the scenes by heart after seven rounds."""


def training_scenes(count: int, seed: int) -> list[Scene]:
    """Scenes of the part that is not held out."""
    rng = random.Random(seed)
    return [sample_split(rng, held_out=False) for _ in range(count)]


@torch.no_grad()
def encode_scenes(vq: VQModel, scenes: list[Scene], batch: int = 32) -> Tensor:
    """Codes of rendered scenes, int16 [len(scenes), block_size]."""
    starts = tqdm(range(0, len(scenes), batch), desc="encoding", unit="batch", mininterval=10)
    codes = [vq.encode(prepare([render(s) for s in scenes[i : i + batch]], vq.config)).flatten(1) for i in starts]
    return torch.cat(codes).to(torch.int16)


def cached_codes(path: Path, vq: VQModel, scenes: list[Scene]) -> Tensor:
    """The codes from an earlier run where they are there, else made and kept."""
    if not path.is_file():
        save_checkpoint(path, {"codes": encode_scenes(vq, scenes)})
    codes: Tensor = torch.load(path, weights_only=True)["codes"]
    if len(codes) != len(scenes):
        raise ValueError(f"{path} has the codes of {len(codes)} scenes, expected {len(scenes)}; delete it")
    return codes


class TextToImage(nn.Module):
    """The two models that are trained together."""

    def __init__(self, gpt: GPT, encoder: TextEncoder) -> None:
        super().__init__()
        self.gpt, self.encoder = gpt, encoder

    def loss(self, captions: list[str], codes: Tensor, drop: Tensor) -> Tensor:
        """Mean cross-entropy of the codes, int64 [B, block_size]; ``drop`` bool [B] hides these captions' text."""
        with torch.autocast("cpu", torch.bfloat16):
            text, valid = self.encoder(captions)
            logits = self.gpt(text, valid, codes[:, :-1], drop)
        return F.cross_entropy(logits.flatten(0, 1).float(), codes.flatten())


def build(config: GPTConfig, codebook: Tensor, seed: int) -> TextToImage:
    """Random weights; ``codebook`` [vocab_size, D] holds the tokenizer's vectors."""
    torch.manual_seed(seed)
    gpt = GPT(config)
    add_features(gpt, codebook)
    encoder = TextEncoder.from_scratch(config.caption_dim, config.cls_token_num, seed)
    return TextToImage(gpt, encoder)


class ARTrainer:
    """The models with all that a step changes."""

    def __init__(
        self,
        budget: Budget,
        scenes: list[Scene],
        codes: Tensor,
        codebook: Tensor,
        seed: int = 0,
        peak_lr: float = 1e-3,
        config: GPTConfig = CONFIG,
        batch: int = BATCH,
    ) -> None:
        self.budget, self.scenes, self.codes = budget, scenes, codes
        self.peak_lr, self.config, self.batch = peak_lr, config, batch
        self.model = build(config, codebook, seed)
        self.rng = seed_everything(seed)
        matrices = [p for p in self.model.parameters() if p.ndim > 1]
        vectors = [p for p in self.model.parameters() if p.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=peak_lr, betas=(0.9, 0.95), fused=True)
        self.ema = Ema(self.model, 0.998)
        self.count = 0

    def step(self) -> dict[str, float]:
        """One optimiser step; gives the figures to log."""
        progress = self.budget.progress(self.count)
        picks = self.rng.sample(range(len(self.scenes)), self.batch)
        captions = [sample_caption(self.rng, self.scenes[i]).text for i in picks]
        drop = torch.rand(self.batch) < self.config.class_dropout_prob
        rate = learning_rate(self.peak_lr, self.count, progress)
        set_learning_rate(self.optimizer, rate)
        loss = self.model.loss(captions, self.codes[picks].long(), drop)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.ema.update(self.model, self.count)
        self.count += 1
        return {"loss": loss.item(), "norm": norm.item(), "lr": rate, "at": progress}

    def state_dict(self) -> dict[str, Any]:
        return {
            "config": asdict(self.config),
            "model": self.model.state_dict(),
            "ema": self.ema.values,
            "optimizer": self.optimizer.state_dict(),
            "rng": rng_state(self.rng),
            "step": self.count,
            "elapsed": self.budget.elapsed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.ema.values = state["ema"]
        self.optimizer.load_state_dict(state["optimizer"])
        set_rng_state(self.rng, state["rng"])
        self.count, self.budget.elapsed = state["step"], state["elapsed"]


def load_trained_ar(path: Path, tokenizer_seed: int = 0) -> TextToImage:
    """The averaged models of a training checkpoint, float32, ready to use."""
    state = load_checkpoint(path)
    if state is None:
        raise FileNotFoundError(f"{path}: no such checkpoint; run python -m demo.train_ar first")
    config = GPTConfig(**state["config"])
    model = build(config, torch.ones(config.vocab_size, 1), tokenizer_seed)
    model.load_state_dict(state["ema"])
    merge_features(model.gpt)
    return model.eval().requires_grad_(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vq", type=Path, default=Path("demo/runs/vq/checkpoint.pt"))
    parser.add_argument("--out", type=Path, default=Path("demo/runs/ar"))
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=float)
    length.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--scenes", type=int, default=NUM_SCENES)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    log_to(args.out)
    scenes = training_scenes(args.scenes, args.seed)
    vq = load_trained(args.vq)
    codes = cached_codes(args.out / "codes.pt", vq, scenes)
    codebook = vq.quantize.codebook()
    run(ARTrainer(Budget(args.steps, args.minutes), scenes, codes, codebook, args.seed, args.lr), args.out)


if __name__ == "__main__":
    main()
