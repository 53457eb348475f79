"""FID and Inception Score, by the formulas of ADM's evaluator (``evaluations/evaluator.py`` of guided-diffusion)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SPLIT = 5000
"""Images per split of the Inception Score: 50,000 images have 10."""
_CHUNK = 4096


@dataclass(frozen=True, eq=False)
class Statistics:
    """Mean [D] and covariance [D, D] of features."""

    mean: Array
    covariance: Array

    @classmethod
    def of(cls, features: NDArray[np.float32]) -> Statistics:
        """Computes the statistics of features [N, D], N at least 2, in float64. The covariance divides by N - 1."""
        if len(features) < 2:
            raise ValueError(f"{len(features)} images have no covariance; at least 2 are needed")
        mean = features.mean(axis=0, dtype=np.float64)
        covariance = np.zeros((mean.size, mean.size))
        for start in range(0, len(features), _CHUNK):
            centred = features[start : start + _CHUNK] - mean
            covariance += centred.T @ centred
        return cls(mean, covariance / (len(features) - 1))


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """Returns |mean difference|^2 + trace(A + B - 2 (A B)^(1/2)), the FID of two sets of features (arXiv 1706.08500).

    A B has the eigenvalues of the symmetric matrix A^(1/2) B A^(1/2), so the trace of its root is the sum of their
    square roots. Unlike a root of A B itself, this needs no correction where the matrices are singular.

    Raises:
        ValueError: the features differ in number.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"the statistics have {a.mean.size} and {b.mean.size} features, must be equal")
    values, vectors = np.linalg.eigh(a.covariance)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    product = root @ b.covariance @ root
    root_trace = np.sqrt(np.linalg.eigvalsh((product + product.T) / 2).clip(0)).sum()
    difference = a.mean - b.mean
    return float(difference @ difference + np.trace(a.covariance) + np.trace(b.covariance) - 2 * root_trace)


def inception_score(probabilities: Array, split: int = SPLIT) -> float:
    """Class probabilities [N, classes] -> exp(KL(p(y|x) || p(y))), averaged over splits of ``split`` images.

    As in ADM's evaluator the size of a split is fixed, not their number; the last one may be smaller.
    """
    scores = []
    for start in range(0, len(probabilities), split):
        part = probabilities[start : start + split]
        marginal = part.mean(axis=0, keepdims=True)
        ratio = np.log(np.where(part > 0, part, 1)) - np.log(np.where(marginal > 0, marginal, 1))  # 0 log 0 is 0
        scores.append(np.exp((part * ratio).sum(axis=1).mean()))
    return float(np.mean(scores))
