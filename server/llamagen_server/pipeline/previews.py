"""Previews of an unfinished image: when they are due, and the codes that fill the tokens to come."""

from __future__ import annotations

from dataclasses import dataclass

from llamagen_server.pipeline.inpaint import TokenMask


@dataclass(frozen=True)
class PreviewSchedule:
    """The steps at which previews of one image are due."""

    update_every: int | None
    """Codes between two outputs of the engine; None: no output before the finished image is needed."""
    steps: tuple[int, ...]
    """Number of codes, prefix tokens included, from which each preview is decoded; ascending."""

    @classmethod
    def plan(cls, num_tokens: int, num_prefix: int, previews: int) -> PreviewSchedule:
        """Spreads previews evenly over the tokens after the prefix, the first of them early.

        The tokens are split into 2 * ``previews`` parts; a preview follows parts 1, 3, 5, ... The engine outputs the
        first sampled code and then one part at a time, so a step is a whole number of parts after that first code.
        """
        remaining, parts = num_tokens - num_prefix, 2 * previews
        part = max(1, remaining // max(1, parts))
        ends = (remaining * odd / parts for odd in range(1, parts, 2))
        steps = {num_prefix + 1 + part * round((end - 1) / part) for end in ends} - {num_prefix, num_tokens}
        return cls(part if steps else None, tuple(sorted(steps)))


def fill(codes: list[int], grid_size: int, token_mask: TokenMask | None = None) -> list[int]:
    """Completes the codes of an unfinished image: the decoder needs all of them.

    Tokens not yet generated come from the original image in an edit, else repeat the token one row above.
    """
    if token_mask:
        return codes + token_mask.codes[len(codes) :]
    codes = list(codes)
    while len(codes) < grid_size**2:
        codes.append(codes[-grid_size] if len(codes) >= grid_size else codes[-1])
    return codes
