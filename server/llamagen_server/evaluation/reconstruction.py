"""How close reconstructed images are to their originals: PSNR and SSIM."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW, SIGMA = 11, 1.5
K1, K2 = 0.01, 0.03
MAX_PSNR = 100.0
"""PSNR of equal images, which would be infinite."""


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Images [B, C, H, W], 0 to 255 -> peak signal-to-noise ratio of each in dB [B], at most `MAX_PSNR`."""
    error = (a.double() - b.double()).square().mean((1, 2, 3))
    return (10 * torch.log10(255**2 / error)).clamp(max=MAX_PSNR)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Images [B, C, H, W], 0 to 255 -> structural similarity of each [B], averaged over channels and positions.

    Wang et al. 2004: a Gaussian window of 11x11 with sigma 1.5, inside the image only, K1 = 0.01, K2 = 0.03, data range
    255. In float64, because variances are differences of large numbers.

    Raises:
        ValueError: an image is smaller than the window.
    """
    if min(a.shape[2:]) < WINDOW:
        raise ValueError(f"images are {a.shape[3]}x{a.shape[2]}; SSIM needs at least {WINDOW}x{WINDOW} pixels")
    a, b = a.double(), b.double()
    mean_a, mean_b = _blur(a), _blur(b)
    variance_a, variance_b = _blur(a * a) - mean_a**2, _blur(b * b) - mean_b**2
    covariance = _blur(a * b) - mean_a * mean_b
    c1, c2 = (K1 * 255) ** 2, (K2 * 255) ** 2
    similarity = ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)) / (
        (mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2)
    )
    return similarity.mean((1, 2, 3))


def _blur(images: Tensor) -> Tensor:
    """Averages with Gaussian weights where the whole window lies inside the image."""
    offsets = torch.arange(WINDOW, dtype=images.dtype, device=images.device) - WINDOW // 2
    weights = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    weights = weights / weights.sum()
    planes = images.flatten(0, 1)[:, None]
    planes = F.conv2d(F.conv2d(planes, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))
    return planes.view(*images.shape[:2], *planes.shape[2:])
