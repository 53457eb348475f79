"""The size of the decode window by the number of images in a step: vLLM's ``num_speculative_tokens_per_batch_size``."""

from __future__ import annotations

import re

MAX_WINDOW = 64
"""The largest value of ``--decode-window``."""
MAX_ROWS = 256
"""Rows from which a bfloat16 product takes longer than reading its weights, on a GPU of 256 operations per byte."""

Ranges = list[tuple[int, int, int]]
"""First and last number of images, and the window for them. The last window also counts for more images."""


def window_ranges(rule: str, window: int, branches: int) -> Ranges | None:
    """Returns the windows of a rule.

    Args:
        rule: ``rows``: half the window, and half of that, whenever a step would have more than `MAX_ROWS` rows;
            ``fixed``; or ranges of images and their windows, such as ``1-8:16,9-32:4``, and 0 for more images.
        window: the largest window.
        branches: rows of a token.

    Returns:
        None for ``fixed``.

    Raises:
        ValueError: the rule is none of these, or a range contradicts the others.
    """
    if rule == "fixed":
        return None
    if rule == "rows":
        return _by_rows(window, branches)
    ranges: Ranges = []
    for part in rule.split(","):
        if not (match := re.fullmatch(r"\s*(\d+)-(\d+):(\d+)\s*", part)):
            raise ValueError(f"--decode-window-rule is {rule!r}, must be rows, fixed or ranges such as 1-8:16,9-32:4")
        first, last, size = map(int, match.groups())
        expected = ranges[-1][1] + 1 if ranges else 1
        if first != expected or last < first or size > window:
            raise ValueError(
                f"--decode-window-rule has {part.strip()!r}, must start at {expected}, end there or later, "
                f"and have a window of at most {window} (--decode-window)"
            )
        ranges.append((first, last, size))
    return [*ranges, (ranges[-1][1] + 1, ranges[-1][1] + 1, 0)]


def _by_rows(window: int, branches: int) -> Ranges:
    ranges: Ranges = []
    first = 1
    while window and (last := MAX_ROWS // (branches * (window + 1))) >= 1:
        if last >= first:
            ranges.append((first, last, window))
            first = last + 1
        window //= 2
    return [*ranges, (first, first, 0)]
