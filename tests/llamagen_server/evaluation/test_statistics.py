"""FID, Inception Score, precision and recall against independent computations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.helpers.fid import fid_of_few

from llamagen_server.evaluation.manifold import precision_recall
from llamagen_server.evaluation.statistics import Statistics, frechet_distance, inception_score


def independent_fid(a: np.ndarray, b: np.ndarray) -> float:
    """With NumPy's covariance, and the eigenvalues of the product of both, which is not symmetric."""
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    roots = np.sqrt(np.linalg.eigvals(cov_a @ cov_b).astype(complex))
    difference = a.mean(0, dtype=np.float64) - b.mean(0, dtype=np.float64)
    return float(difference @ difference + np.trace(cov_a) + np.trace(cov_b) - 2 * roots.real.sum())


@pytest.mark.parametrize(("images", "features"), [(300, 64), (40, 96)])  # the second has singular covariances
def test_fid_equals_an_independent_implementation(images: int, features: int) -> None:
    random = np.random.default_rng(0)
    mix = random.normal(size=(features, features))
    a = np.maximum(random.normal(size=(images, features)) @ mix, 0).astype(np.float32)
    b = np.maximum(random.normal(0.3, 1.2, size=(images + 7, features)) @ mix, 0).astype(np.float32)
    found = frechet_distance(Statistics.of(a), Statistics.of(b))
    assert found == pytest.approx(independent_fid(a, b), abs=1e-3)
    assert found == pytest.approx(fid_of_few(a, b), abs=1e-3)
    assert found > 1


def test_fid_of_gaussians_in_closed_form() -> None:
    """For diagonal covariances the distance is the sum of (difference of means)^2 + (difference of deviations)^2."""
    a = Statistics(np.array([0.0, 1.0, 2.0]), np.diag([1.0, 4.0, 9.0]))
    b = Statistics(np.array([3.0, 1.0, 0.0]), np.diag([4.0, 4.0, 1.0]))
    assert frechet_distance(a, b) == pytest.approx(9 + 4 + 1 + 0 + 4)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-12)


def test_statistics_equal_numpys_over_several_chunks() -> None:
    features = np.random.default_rng(1).normal(5, 2, (9000, 3)).astype(np.float32)
    found = Statistics.of(features)
    np.testing.assert_allclose(found.mean, features.mean(0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(features.astype(np.float64), rowvar=False), rtol=1e-9)


def test_statistics_need_two_images_and_equal_features() -> None:
    with pytest.raises(ValueError, match="1 images have no covariance"):
        Statistics.of(np.zeros((1, 4), np.float32))
    pair = [Statistics.of(np.zeros((2, size), np.float32)) for size in (3, 4)]
    with pytest.raises(ValueError, match="3 and 4 features"):
        frechet_distance(*pair)


def test_inception_score_of_certain_and_of_uncertain_predictions() -> None:
    assert inception_score(np.eye(4)) == pytest.approx(4)  # each image another class
    assert inception_score(np.full((6, 4), 0.25)) == pytest.approx(1)


def test_inception_score_averages_splits_of_fixed_size() -> None:
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.ones(5), 7)

    def score(part: np.ndarray) -> float:
        marginal = part.sum(0) / len(part)
        divergences = [sum(p * math.log(p / q) for p, q in zip(row, marginal)) for row in part]
        return math.exp(sum(divergences) / len(part))

    expected = (score(probabilities[:3]) + score(probabilities[3:6]) + score(probabilities[6:])) / 3
    assert inception_score(probabilities, split=3) == pytest.approx(expected)


def independent_precision_recall(real: np.ndarray, fake: np.ndarray) -> tuple[float, float]:
    """Point by point, with Euclidean distances in float64."""

    def share_inside(points: np.ndarray, balls: np.ndarray) -> float:
        radii = [sorted(np.linalg.norm(balls - ball, axis=1))[3] for ball in balls]
        inside = [any(np.linalg.norm(point - ball) <= r for ball, r in zip(balls, radii)) for point in points]
        return sum(inside) / len(points)

    return share_inside(fake, real), share_inside(real, fake)


@pytest.mark.parametrize("batch", [7, 1000])
def test_precision_and_recall_equal_an_independent_implementation(batch: int) -> None:
    random = np.random.default_rng(0)
    real = random.normal(size=(60, 6)).astype(np.float32)
    fake = (random.normal(size=(45, 6)) * 0.7 + 0.5).astype(np.float32)
    found = precision_recall(real, fake, torch.device("cpu"), batch)
    assert found == pytest.approx(independent_precision_recall(real.astype(float), fake.astype(float)))
    assert 0 < found[1] < found[0] < 1


def test_precision_and_recall_of_collapsed_samples() -> None:
    real = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    collapsed = np.tile(real[:1], (20, 1)) + np.linspace(0, 1e-3, 20, dtype=np.float32)[:, None]
    precision, recall = precision_recall(real, collapsed, torch.device("cpu"))
    assert precision == 1
    assert recall < 0.1
    with pytest.raises(ValueError, match="more than 3 images, got 3"):
        precision_recall(real, collapsed[:3], torch.device("cpu"))
