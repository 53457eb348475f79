"""How much of a codebook an image tokenizer uses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llamagen_server.image_files.figure import figure_class


class CodebookUsage:
    """Counts the codes of images."""

    def __init__(self, codebook_size: int) -> None:
        self.counts: NDArray[np.int64] = np.zeros(codebook_size, np.int64)

    def add(self, codes: NDArray[np.int64]) -> None:
        """Counts codes of any shape."""
        self.counts += np.bincount(codes.ravel(), minlength=self.counts.size)

    @property
    def used(self) -> int:
        """Number of codes that occurred."""
        return int(np.count_nonzero(self.counts))

    @property
    def share(self) -> float:
        """Share of the codebook that occurred."""
        return self.used / self.counts.size

    @property
    def perplexity(self) -> float:
        """exp(entropy) of the codes: as many equally frequent codes would be as hard to predict."""
        shares = self.counts[self.counts > 0] / max(1, self.counts.sum())
        return float(np.exp(-(shares * np.log(shares)).sum()))


def plot_usage(usage: CodebookUsage, path: Path) -> None:
    """Plots how often each code occurs: over the codes by rank, and as a histogram.

    Raises:
        ValueError: matplotlib is missing.
    """
    figure = figure_class()(figsize=(10, 4), layout="constrained")
    by_rank, histogram = figure.subplots(1, 2)
    counts = np.sort(usage.counts)[::-1]
    by_rank.plot(np.arange(1, counts.size + 1), counts)
    by_rank.axhline(counts.mean(), color="gray", linestyle="--", label="all codes equally often")
    by_rank.set(xlabel="code, the most frequent first", ylabel="occurrences", xlim=(1, counts.size))
    by_rank.set_yscale("symlog", linthresh=1)
    by_rank.legend()
    histogram.hist(counts, bins=min(50, int(counts.max()) + 1))
    histogram.set(xlabel="occurrences of a code", ylabel="codes", yscale="log")
    figure.suptitle(f"{usage.used} of {counts.size} codes used ({usage.share:.1%}), perplexity {usage.perplexity:.0f}")
    figure.savefig(path, dpi=150)
