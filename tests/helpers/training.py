"""Checks of a trainer of `demo`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from demo.training import Trainer, run

MakeTrainer = Callable[[int], Trainer]
"""Makes a trainer for a number of steps."""


def check_that_a_resumed_run_equals_an_uninterrupted_one(make: MakeTrainer, out: Path) -> None:
    uninterrupted = make(4)
    for _ in range(4):
        uninterrupted.step()
    stopped = make(4)
    for _ in range(2):
        stopped.step()
    stopped.budget.steps = 2
    run(stopped, out)  # only saves
    resumed = make(4)
    run(resumed, out)
    assert resumed.count == 4
    for part in ("model", "ema"):  # the average is what is exported
        for name, value in uninterrupted.state_dict()[part].items():
            torch.testing.assert_close(resumed.state_dict()[part][name], value, atol=1e-6, rtol=0, msg=name)


def check_that_the_loss_falls(make: MakeTrainer, steps: int) -> None:
    trainer = make(steps)
    losses = [trainer.step()["loss"] for _ in range(steps)]
    assert sum(losses[-5:]) < 0.95 * sum(losses[:5])
