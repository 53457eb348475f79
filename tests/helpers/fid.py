"""FID of few images by another way than the server's."""

from __future__ import annotations

import numpy as np


def fid_of_few(a: np.ndarray, b: np.ndarray) -> float:
    """Features [N, D] and [M, D] -> FID. No matrix is larger than N x M.

    With centred features X and Y, trace((A B)^(1/2)) is the sum of the singular values of X Y^T, divided by
    ((N - 1) (M - 1))^(1/2).
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    x, y = a - a.mean(0), b - b.mean(0)
    traces = (x**2).sum() / (len(x) - 1) + (y**2).sum() / (len(y) - 1)
    root = np.linalg.svd(x @ y.T, compute_uv=False).sum() / np.sqrt((len(x) - 1) * (len(y) - 1))
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + traces - 2 * root)
