"""Two-dimensional rotary embedding (official ``gpt.py``: ``precompute_freqs_cis_2d``, ``apply_rotary_emb``)."""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_table(grid_size: int, head_dim: int, base: float) -> Tensor:
    """Returns cosines and sines by position, [1 + grid_size ** 2, head_dim // 2, 2], float32.

    Row 0 belongs to condition tokens: cosine and sine are both zero, so their queries and keys vanish. Row ``i + 1``
    belongs to image token ``i``. The first half of the pairs rotates by the grid row, the second half by the column.
    """
    quarter = head_dim // 4
    frequencies = 1.0 / base ** (torch.arange(quarter, dtype=torch.float32) * 2 / (head_dim // 2))
    angles = torch.outer(torch.arange(grid_size, dtype=torch.float32), frequencies)  # [grid, quarter]
    rows = angles[:, None].expand(grid_size, grid_size, quarter)
    columns = angles[None, :].expand(grid_size, grid_size, quarter)
    grid = torch.cat([rows, columns], dim=-1).flatten(0, 1)
    table = torch.stack([grid.cos(), grid.sin()], dim=-1)
    return torch.cat([torch.zeros(1, *table.shape[1:]), table])


def rotate(x: Tensor, cos_sin: Tensor) -> Tensor:
    """Rotates neighbouring pairs of ``x`` [..., head_dim] by ``cos_sin`` [..., head_dim // 2, 2], in float32.

    Returns the shape and dtype of ``x``.
    """
    even, odd = x.float().view(*x.shape[:-1], -1, 2).unbind(-1)
    cos, sin = cos_sin.unbind(-1)
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2).type_as(x)
