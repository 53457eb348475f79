"""Options of the engine's benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llamagen_server.engine.window_rule import MAX_WINDOW
from vllm_llamagen.config import SIZES

DOWNSAMPLE = 16
"""Pixels per image token and side, in the official image tokenizers."""


@dataclass(frozen=True)
class EngineOptions:
    """Options of `llamagen_server.bench.engine.measure_engine`.

    Each is the flag of ``llamagen bench engine`` of the same name, and error messages use the flag's name.

    Raises:
        ValueError: a value is out of range, or two options contradict each other.
    """

    size: str = "B"
    """Network with random weights, one of `vllm_llamagen.config.SIZES`."""
    model: Path | None = None
    """Model directory to use in place of ``size`` and ``image_size``."""
    image_size: int = 256
    """Side of the images in pixels, a multiple of 16."""
    batch: tuple[int, ...] = (1, 8)
    """Batch sizes to measure, in images."""
    cfg_scale: float = 4.0
    """Guidance scale; 1 runs a single branch."""
    cfg_min_p: float = 0.0
    """Above 0, the engine is also timed with this ``cfg_min_p`` of all requests."""
    top_k: int = 2000
    dtype: str = "auto"
    enforce_eager: bool = False
    repeat: int = 3
    """Timed runs per batch size; the median counts."""
    baseline: str | None = None
    """``eager`` also times `llamagen_server.bench.eager.EagerGPT`."""
    decode_window: int = 0
    """Tokens guessed ahead in a step, whatever the batch; 0: none."""
    profile: bool = False
    """Whether to profile a step of the largest batch. The engine then runs in the calling process."""

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise ValueError(f"--size is {self.size}, must be one of {', '.join(SIZES)}")
        if min(self.batch, default=0) < 1:
            raise ValueError(f"--batch is {min(self.batch, default='empty')}, must be at least 1")
        if not 0 <= self.cfg_min_p <= 1:
            raise ValueError(f"--cfg-min-p is {self.cfg_min_p}, must be from 0 to 1")
        if self.cfg_min_p and self.cfg_branches == 1:
            raise ValueError("--cfg-min-p needs guidance: --cfg-scale is 1")
        if self.repeat < 1:
            raise ValueError(f"--repeat is {self.repeat}, must be at least 1")
        if self.image_size < DOWNSAMPLE or self.image_size % DOWNSAMPLE:
            raise ValueError(f"--image-size is {self.image_size}, must be a multiple of {DOWNSAMPLE}")
        if self.baseline not in (None, "eager"):
            raise ValueError(f"--baseline is {self.baseline}, must be eager")
        if not 0 <= self.decode_window <= MAX_WINDOW:
            raise ValueError(f"--decode-window is {self.decode_window}, must be from 0 to {MAX_WINDOW}")
        if self.cfg_min_p and self.decode_window:
            raise ValueError("--cfg-min-p cannot be timed with --decode-window: tokens per step are counted for both")
        if self.model and self.baseline:
            raise ValueError("--baseline needs --size: it cannot load the weights of --model")

    @property
    def cfg_branches(self) -> int:
        return 1 if self.cfg_scale == 1 else 2
