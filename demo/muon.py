"""Muon in float32, for CPUs: `torch.optim.Muon` multiplies in bfloat16, which is slow without units for it.

A step of the demo's language model takes 2 s on two cores with AVX2, and `torch.optim.Muon` added 12 s to it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the polynomial that is iterated, from Muon's authors (https://kellerjordan.github.io/posts/muon)."""
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Momentum whose steps are orthogonal matrices, scaled to the size of AdamW's ("match_rms_adamw" of PyTorch).

    Args:
        matrices: parameters of two dimensions.
        lr: learning rate.
        weight_decay: decoupled, relative to ``lr``.
        momentum: Nesterov momentum.
    """

    def __init__(
        self, matrices: Iterable[nn.Parameter], lr: float = 1e-3, weight_decay: float = 0.1, momentum: float = 0.95
    ) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    shapes[matrix.shape].append(matrix)
            for (rows, columns), matrices in shapes.items():
                steps = orthogonal(torch.stack([self._momentum(matrix, group["momentum"]) for matrix in matrices]))
                size = group["lr"] * 0.2 * max(rows, columns) ** 0.5
                for matrix, step in zip(matrices, steps, strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"]).sub_(step, alpha=size)

    def _momentum(self, matrix: Tensor, momentum: float) -> Tensor:
        state = self.state[matrix]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(matrix)
        state["momentum_buffer"].lerp_(matrix.grad, 1 - momentum)
        return torch.lerp(matrix.grad, state["momentum_buffer"], momentum)


def orthogonal(matrices: Tensor) -> Tensor:
    """The orthogonal matrices nearest to ``matrices`` [N, rows, columns], roughly: singular values of 0.7 to 1.2."""
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.transpose(1, 2) if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        square = x @ x.transpose(1, 2)
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.transpose(1, 2) if tall else x
