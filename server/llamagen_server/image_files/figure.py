"""Plots as image files."""

from __future__ import annotations

from typing import Any


def figure_class() -> Any:
    """Returns matplotlib's ``Figure``; called before a long measurement, so that none is in vain.

    Raises:
        ValueError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("a plot needs matplotlib: pip install matplotlib") from None
    return Figure
