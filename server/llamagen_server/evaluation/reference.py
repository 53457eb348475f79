"""The reference that samples are compared with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llamagen_server.evaluation.image_sets import ImageSet, open_images
from llamagen_server.evaluation.npz_images import ARRAY, open_archive
from llamagen_server.evaluation.settings import file_sha256
from llamagen_server.evaluation.statistics import Statistics


@dataclass(frozen=True, eq=False)
class Reference:
    """Images, statistics of features, or both: ADM's files have the statistics of many more images than they hold."""

    path: Path
    images: ImageSet | None
    pooled: Statistics | None
    """Stored statistics of the pooled features; None if they are to be computed from the images."""
    spatial: Statistics | None

    def sha256(self) -> str:
        return self.images.sha256() if self.images else file_sha256(self.path)


def open_reference(path: Path, side: int | None = None) -> Reference:
    """Opens a folder of images, or an ``.npz`` with ``arr_0``, ``mu`` and ``sigma`` (``mu_s``, ``sigma_s``), or both.

    Args:
        side: crops and resizes the images of a folder to squares of this side.

    Raises:
        ValueError: the path has neither images nor statistics.
    """
    if path.is_dir():
        return Reference(path, open_images(path, side), None, None)
    with open_archive(path) as archive:
        names = {name.removesuffix(".npy") for name in archive.namelist()}
    if not ({ARRAY} <= names or {"mu", "sigma"} <= names):
        has = ", ".join(sorted(names)) or "nothing"
        raise ValueError(f"{path}: no reference; expected {ARRAY} (images), or mu and sigma; it has {has}")
    return Reference(
        path,
        images=open_images(path, side) if ARRAY in names else None,
        pooled=_read_statistics(path, names, "mu", "sigma"),
        spatial=_read_statistics(path, names, "mu_s", "sigma_s"),
    )


def _read_statistics(path: Path, names: set[str], mean: str, covariance: str) -> Statistics | None:
    if not {mean, covariance} <= names:
        return None
    with np.load(path, allow_pickle=False) as arrays:
        found = Statistics(np.atleast_1d(arrays[mean]).astype(float), np.atleast_2d(arrays[covariance]).astype(float))
    if found.covariance.shape != (found.mean.size, found.mean.size):
        raise ValueError(f"{path}: {mean} has {found.mean.size} features, {covariance} {list(found.covariance.shape)}")
    return found
