"""What both trainers share: budget and schedule, weight averaging, checkpoints that training can be resumed from."""

from __future__ import annotations

import argparse
import logging
import math
import os
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)

LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"


@dataclass
class Budget:
    """How long to train: a number of steps (repeatable) or of minutes (depends on the machine).

    ``elapsed`` is the training time in seconds, summed over resumed runs.
    """

    steps: int | None = None
    minutes: float | None = None
    elapsed: float = 0.0

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise ValueError(f"give either steps or minutes, got steps={self.steps} and minutes={self.minutes}")
        self._last = time.monotonic()

    def progress(self, step: int) -> float:
        """Share of the budget that is used up, 0 to 1 or a little more. Also counts the time since the last call."""
        now = time.monotonic()
        self.elapsed, self._last = self.elapsed + now - self._last, now
        return step / self.steps if self.steps is not None else self.elapsed / (60.0 * (self.minutes or 1.0))


def learning_rate(peak: float, step: int, progress: float, warmup: int = 100, floor: float = 0.01) -> float:
    """Linear warm-up over ``warmup`` steps, then a cosine in ``progress`` down to ``floor * peak``."""
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))
    return peak * min(1.0, (step + 1) / warmup) * (floor + (1.0 - floor) * cosine)


class Ema:
    """Exponential moving average of a model's parameters and buffers; young averages forget faster."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        weight = 1.0 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.values.values()), list(model.state_dict().values()), weight)


class ThreadChoice:
    """Chooses one thread or all of them, whichever is faster at the moment.

    On a machine that others use too, threads that wait for each other can be slower by far than a single one.
    """

    def __init__(self, most: int, trial: int = 3, period: int = 40) -> None:
        self.most, self.trial, self.period = most, trial, period
        self.count = 0
        self.times: dict[int, list[float]] = {1: [], most: []}

    def before_step(self) -> None:
        """Sets the number of threads for the next step: ``trial`` steps with each, then the better one."""
        at = self.count % self.period
        if at == 0:
            self.times = {1: [], self.most: []}
        medians = {n: sorted(t)[len(t) // 2] for n, t in self.times.items() if t}
        best = min(medians, key=medians.__getitem__, default=1)
        torch.set_num_threads(1 if at < self.trial else self.most if at < 2 * self.trial else best)
        self._began = time.monotonic()

    def after_step(self) -> None:
        if self.count % self.period < 2 * self.trial:
            self.times[torch.get_num_threads()].append(time.monotonic() - self._began)
        self.count += 1


class Trainer:
    """A model with all that changes while it is trained. A kind of training says what its loss is."""

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
        """The loss on a fresh batch, and other figures to log."""
        raise NotImplementedError

    def step(self) -> dict[str, float]:
        """One optimiser step; gives the figures to log."""
        progress = self.budget.progress(self.count)
        rate = learning_rate(self.peak_lr, self.count, progress)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        loss, figures = self.loss()
        self.model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.ema.update(self.model, self.count)
        self.count += 1
        return {"loss": loss.item(), **figures, "lr": rate, "at": progress}

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
    """Trains until the budget is used up, resuming from ``out/checkpoint.pt`` where there is one.

    Saves every ``save_every`` seconds of training; logs the means over ``log_every`` steps.
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
            means = {name: sum(f[name] for f in recent) / len(recent) for name in recent[0]}
            text = " ".join(f"{name} {value:.4g}" for name, value in means.items())
            logger.info("step %d min %.1f threads %d %s", *_where(trainer), text)
            recent = []
        if trainer.budget.elapsed - saved > save_every:
            save_checkpoint(path, trainer.state_dict())
            saved = trainer.budget.elapsed
    save_checkpoint(path, trainer.state_dict())
    logger.info("done: %d steps in %.1f min", trainer.count, trainer.budget.elapsed / 60)


def _where(trainer: Trainer) -> tuple[int, float, int]:
    return trainer.count, trainer.budget.elapsed / 60, torch.get_num_threads()


def save_checkpoint(path: Path, checkpoint: Mapping[str, Any]) -> None:
    """Writes beside the old file and then replaces it, so that a crash leaves the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(dict(checkpoint), partial)
    os.replace(partial, path)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The checkpoint, or None where there is none yet."""
    return torch.load(path, map_location="cpu", weights_only=True) if path.is_file() else None


def load_trained(path: Path) -> dict[str, Any]:
    """The checkpoint of a run.

    Raises:
        FileNotFoundError: nothing was trained yet.
    """
    if (state := load_checkpoint(path)) is None:
        raise FileNotFoundError(f"{path}: no such checkpoint; train first")
    return state


def training_parser(description: str | None, peak_lr: float) -> argparse.ArgumentParser:
    """The flags that both trainers have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=float)
    length.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr", type=float, default=peak_lr)
    parser.add_argument("--threads", type=int, default=2)
    return parser


def start(args: argparse.Namespace) -> None:
    """Sets the threads and sends the log to the terminal and to ``train.log`` in the folder of the run."""
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    handlers = [logging.StreamHandler(), logging.FileHandler(args.out / "train.log")]
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, handlers=handlers)
