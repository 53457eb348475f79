"""Inception features of images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llamagen_server.core.results import Pixels
from llamagen_server.evaluation.inception import SIDE, Inception
from llamagen_server.stages.exact_float32 import exact_float32

Features = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ImageFeatures:
    """Features of N images."""

    pooled: Features
    """[N, 2048]."""
    spatial: Features
    """[N, 2023]."""


class FeatureExtractor:
    """Computes the features of `ImageFeatures` in float32, with the preprocessing inside ADM's TensorFlow graph."""

    def __init__(self, inception: Inception, device: torch.device) -> None:
        self.inception = inception.to(device)
        self.device = device

    def __call__(self, batches: Iterable[Pixels]) -> ImageFeatures:
        """Batches of images [B, height, width, 3], uint8 -> the features of all of them."""
        pooled, spatial = zip(*map(self.batch, batches))
        return ImageFeatures(np.concatenate(pooled), np.concatenate(spatial))

    @exact_float32()
    @torch.inference_mode()
    def batch(self, pixels: Pixels) -> tuple[Features, Features]:
        """Returns the pooled and the spatial features of images [B, height, width, 3], uint8."""
        images = torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2).float()
        pooled, spatial = self.inception((resize_as_tensorflow_1(images, SIDE) - 128) / 128)
        return pooled.cpu().numpy(), spatial.cpu().numpy()

    @exact_float32()
    @torch.inference_mode()
    def probabilities(self, pooled: Features, batch: int = 512) -> NDArray[np.float64]:
        """Pooled features [N, 2048] -> class probabilities [N, 1008]."""
        parts = (torch.from_numpy(pooled[start : start + batch]) for start in range(0, len(pooled), batch))
        found = [self.inception.probabilities(part.to(self.device)).double().cpu().numpy() for part in parts]
        return np.concatenate(found)


def resize_as_tensorflow_1(images: Tensor, side: int) -> Tensor:
    """Resizes images [B, C, H, W], float32, to [B, C, side, side] as ``ResizeBilinear`` of TensorFlow 1 does.

    The op has neither antialiasing nor half-pixel centres: output pixel i lies at ``i * size / side`` of the input.
    """
    low, high, weight = _taps(images.shape[3], side, images.device)
    left = images[..., low]
    rows = left + (images[..., high] - left) * weight
    low, high, weight = _taps(images.shape[2], side, images.device)
    top = rows[:, :, low]
    return top + (rows[:, :, high] - top) * weight[:, None]


def _taps(size: int, side: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Returns, for each output pixel, its two input pixels and the weight of the second."""
    position = torch.arange(side, dtype=torch.float32) * (torch.tensor(size, dtype=torch.float32) / side)
    low = position.floor().long()
    high = (low + 1).clamp(max=size - 1)
    return low.to(device), high.to(device), (position - low).to(device)
