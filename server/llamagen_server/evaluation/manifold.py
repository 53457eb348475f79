"""Precision and recall of features (arXiv 1904.06991), by the formulas of ADM's evaluator."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llamagen_server.stages.exact_float32 import exact_float32

NEIGHBOURS = 3
BATCH = 2048


@exact_float32()
@torch.inference_mode()
def precision_recall(
    reference: NDArray[np.float32], samples: NDArray[np.float32], device: torch.device, batch: int = BATCH
) -> tuple[float, float]:
    """Features [N, D] and [M, D] -> precision and recall.

    Around each feature lies a ball whose radius is the distance to its third nearest neighbour. Precision is the share
    of samples inside a ball of the reference, recall the share of the reference inside a ball of the samples.
    Distances are float32; ADM's evaluator rounds them to float16.

    Raises:
        ValueError: there are not more features than neighbours.
    """
    fewest = min(len(reference), len(samples))
    if fewest <= NEIGHBOURS:
        raise ValueError(f"precision and recall need more than {NEIGHBOURS} images, got {fewest}")
    real, fake = (torch.from_numpy(features).to(device) for features in (reference, samples))
    real_radii, fake_radii = _radii(real, batch), _radii(fake, batch)
    real_inside = torch.zeros(len(real), dtype=torch.bool, device=device)
    fake_inside = torch.zeros(len(fake), dtype=torch.bool, device=device)
    for i in range(0, len(real), batch):
        for j in range(0, len(fake), batch):
            distances = _squared_distances(real[i : i + batch], fake[j : j + batch])
            real_inside[i : i + batch] |= (distances <= fake_radii[j : j + batch]).any(1)
            fake_inside[j : j + batch] |= (distances <= real_radii[i : i + batch, None]).any(0)
    return fake_inside.double().mean().item(), real_inside.double().mean().item()


def _radii(features: Tensor, batch: int) -> Tensor:
    """Returns the squared distance [N] to the third nearest other feature; the nearest of all is the feature itself."""
    found = []
    for i in range(0, len(features), batch):
        rows = features[i : i + batch]
        nearest = torch.full((len(rows), NEIGHBOURS + 1), torch.inf, device=features.device)
        for j in range(0, len(features), batch):
            candidates = torch.cat([nearest, _squared_distances(rows, features[j : j + batch])], 1)
            nearest = candidates.topk(NEIGHBOURS + 1, largest=False).values
        found.append(nearest[:, -1])
    return torch.cat(found)


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    return (a.square().sum(1, keepdim=True) - 2 * a @ b.T + b.square().sum(1)).clamp(min=0)
