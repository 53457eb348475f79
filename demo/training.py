"""Common parts of all trainers: budget, learning rate, weight averaging and the resumable training loop."""

from __future__ import annotations

import argparse
import logging
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from demo.checkpoint import load_checkpoint, load_trained_vq, save_checkpoint
from demo.muon import Muon
from demo.threads import ThreadChoice
from llamagen_server.engine.cpu import has_bfloat16_units
from llamagen_tokenizer.model import VQModel

logger = logging.getLogger(__name__)

LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"


@dataclass
class Budget:
    """Length of the training, either in steps (repeatable) or in minutes (depends on the machine).

    Raises:
        ValueError: both limits or neither are given.
    """

    steps: int | None = None
    minutes: float | None = None
    elapsed: float = 0.0
    """Training time in seconds, summed over resumed runs."""

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise ValueError(f"give either steps or minutes, got steps={self.steps} and minutes={self.minutes}")
        self._last = time.monotonic()

    def progress(self, step: int) -> float:
        """Adds the time since the last call to ``elapsed`` and returns the used share of the budget.

        The share starts at 0 and ends at 1 or slightly above.
        """
        now = time.monotonic()
        self.elapsed, self._last = self.elapsed + now - self._last, now
        return step / self.steps if self.steps is not None else self.elapsed / (60.0 * (self.minutes or 1.0))


def learning_rate(peak: float, step: int, progress: float, warmup: int = 100, min_ratio: float = 0.01) -> float:
    """Cosine decay in ``progress`` from ``peak`` to ``min_ratio * peak``, with linear warm-up over ``warmup`` steps."""
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))
    return peak * min(1.0, (step + 1) / warmup) * (min_ratio + (1.0 - min_ratio) * cosine)


def autocast() -> torch.autocast:
    """Context in which products run in bfloat16, where the CPU has units for it; else in float32."""
    return torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16_units())


def muon_and_adamw(model: nn.Module, head: nn.Linear) -> list[torch.optim.Optimizer]:
    """Optimizers of a language model: Muon for the matrices of its layers, AdamW for its head and all else."""
    matrices = [m.weight for m in model.modules() if isinstance(m, nn.Linear) and m is not head]
    ids = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in ids]
    return [
        Muon(matrices, weight_decay=0.05),
        torch.optim.AdamW(others, weight_decay=0.0, betas=(0.9, 0.95), fused=True),
    ]


class Ema:
    """Exponential moving average of a model's parameters and buffers. It decays faster in the first steps."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        weight = 1.0 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.values.values()), list(model.state_dict().values()), weight)


class Trainer:
    """A model with the complete state of its training. Subclasses implement `loss`."""

    warmup = 100
    """Steps in which the learning rate rises."""

    def __init__(
        self,
        model: nn.Module,
        config: dict[str, Any],
        optimizers: Sequence[torch.optim.Optimizer],
        budget: Budget,
        seed: int,
        peak_lr: float,
    ) -> None:
        self.model, self.config, self.optimizers = model, config, optimizers
        self.budget, self.peak_lr = budget, peak_lr
        self.ema = Ema(model, 0.998)
        self.count = 0
        torch.manual_seed(seed)
        self.rng = random.Random(seed)

    def loss(self) -> tuple[Tensor, dict[str, float]]:
        """Computes the loss on a new batch, and further values to log."""
        raise NotImplementedError

    def step(self) -> dict[str, float]:
        """Takes one optimiser step and returns the values to log."""
        progress = self.budget.progress(self.count)
        rate = learning_rate(self.peak_lr, self.count, progress, self.warmup)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        loss, values = self.loss()
        self.model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.ema.update(self.model, self.count)
        self.count += 1
        return {"loss": loss.item(), **values, "lr": rate, "progress": progress}

    def state_dict(self) -> dict[str, Any]:
        return {
            "config": self.config,
            "model": self.model.state_dict(),
            "ema": self.ema.values,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "torch_rng": torch.get_rng_state(),
            "python_rng": self.rng.getstate(),
            "step": self.count,
            "elapsed": self.budget.elapsed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.ema.values = state["ema"]
        for optimizer, value in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(value)
        torch.set_rng_state(state["torch_rng"])
        version, numbers, gauss = state["python_rng"]
        self.rng.setstate((version, tuple(numbers), gauss))
        self.count, self.budget.elapsed = state["step"], state["elapsed"]


def run(trainer: Trainer, out: Path, save_every: float = 60.0, log_every: int = 25) -> None:
    """Trains until the budget is used up, resuming from ``out/checkpoint.pt`` if it exists.

    Args:
        save_every: seconds of training between checkpoints.
        log_every: steps between log lines; their values are means over these steps.
    """
    path = out / "checkpoint.pt"
    if state := load_checkpoint(path):
        trainer.load_state_dict(state)
        logger.info("resumed at step %d after %.1f min", trainer.count, trainer.budget.elapsed / 60)
    saved, recent, threads = trainer.budget.elapsed, [], ThreadChoice(torch.get_num_threads())
    while trainer.budget.progress(trainer.count) < 1.0:
        threads.before_step()
        recent.append(trainer.step())
        threads.after_step()
        if trainer.count % log_every == 0:
            _log_means(trainer, recent)
            recent = []
        if trainer.budget.elapsed - saved > save_every:
            save_checkpoint(path, trainer.state_dict())
            saved = trainer.budget.elapsed
    save_checkpoint(path, trainer.state_dict())
    logger.info("done: %d steps in %.1f min", trainer.count, trainer.budget.elapsed / 60)


def _log_means(trainer: Trainer, recent: Sequence[dict[str, float]]) -> None:
    means = {name: sum(values[name] for values in recent) / len(recent) for name in recent[0]}
    text = " ".join(f"{name} {value:.4g}" for name, value in means.items())
    minutes, threads = trainer.budget.elapsed / 60, torch.get_num_threads()
    logger.info("step %d min %.1f threads %d %s", trainer.count, minutes, threads, text)


def training_parser(description: str | None, peak_lr: float) -> argparse.ArgumentParser:
    """Parser of the flags that all trainers share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory of the run")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=float, help="training time, summed over resumed runs")
    length.add_argument("--steps", type=int, help="number of steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr", type=float, default=peak_lr, help="peak learning rate")
    parser.add_argument("--threads", type=int, default=2, help="maximum number of CPU threads")
    return parser


def run_image_tokenizer(description: str | None, make: Callable[[Budget, int, float, VQModel | None], Trainer]) -> None:
    """Runs the command of an image tokenizer's trainer, of which ``make`` takes budget, seed, rate and a smaller model.

    The trainer starts from random weights at its smallest image size, or from the smaller model of ``--from``.
    """
    parser = training_parser(description, peak_lr=1e-3)
    parser.add_argument(
        "--from", dest="smaller", type=Path, help="checkpoint of a model trained at half the image size"
    )
    args = parser.parse_args()
    set_up(args)
    smaller = load_trained_vq(args.smaller) if args.smaller else None
    run(make(Budget(args.steps, args.minutes), args.seed, args.lr, smaller), args.out)


def set_up(args: argparse.Namespace) -> None:
    """Sets the number of threads and logs to the terminal and to ``train.log`` in the run's directory."""
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    handlers = [logging.StreamHandler(), logging.FileHandler(args.out / "train.log")]
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, handlers=handlers)
