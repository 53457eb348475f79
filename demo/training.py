"""What both trainers share: budget and schedule, weight averaging, checkpoints that training can be resumed from."""

from __future__ import annotations

import logging
import math
import os
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

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


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = value


class Ema:
    """Exponential moving average of a model's parameters and buffers; young averages forget faster."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        weight = 1.0 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.values.values()), list(model.state_dict().values()), weight)


def seed_everything(seed: int) -> random.Random:
    """Seeds torch and gives the generator that draws the training data."""
    torch.manual_seed(seed)
    return random.Random(seed)


def rng_state(rng: random.Random) -> dict[str, Any]:
    return {"torch": torch.get_rng_state(), "python": rng.getstate()}


def set_rng_state(rng: random.Random, state: Mapping[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    version, numbers, gauss = state["python"]
    rng.setstate((version, tuple(numbers), gauss))


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


class Trainer(Protocol):
    """Something that trains step by step and can be saved."""

    budget: Budget
    count: int

    def step(self) -> dict[str, float]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


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


def log_to(folder: Path) -> None:
    """Sends the log to the terminal and to ``folder/train.log``."""
    folder.mkdir(parents=True, exist_ok=True)
    handlers = [logging.StreamHandler(), logging.FileHandler(folder / "train.log")]
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, handlers=handlers)


def parameter_count(values: Mapping[str, Tensor]) -> int:
    return sum(v.numel() for v in values.values())
