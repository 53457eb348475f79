"""Sampling parameters: those of one image, and the defaults of a model."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_llamagen.limits import MAX_INT, MAX_SCALE, MAX_TEMPERATURE, SCHEDULES


@dataclass(frozen=True)
class Sampling:
    """Sampling parameters of one image.

    The ranges are those of `llamagen_server.core.request.ImageRequest`, which checks them.
    """

    cfg_scale: float
    """Guidance scale, 0 to 1000: 1 is the conditional model alone, 0 the unconditional one."""
    cfg_interval: int
    """-1 guides every image token, k >= 0 guides image tokens 0 to k + 1."""
    cfg_schedule: str
    """Scale over the image: ``constant``, or rising from 1 to ``cfg_scale`` (``linear``, ``cosine``)."""
    temperature: float
    """0 to 2; 0 always picks the most likely code."""
    top_k: int
    """Number of most likely codes that are kept; 0 keeps every code."""
    top_p: float
    """Probability mass of the codes that are kept, 0 < p <= 1."""
    seed: int
    """Seed of the random numbers, >= 0."""
    cfg_min_p: float = 0.0
    """0 to 1: excludes codes whose conditional probability is below this share of the most likely code's."""


@dataclass(frozen=True)
class SamplingDefaults:
    """Sampling parameters of a model for requests that leave them out. The fields are those of `Sampling`.

    Raises:
        ValueError: a value is out of range; the message names the field, the value and the range.
    """

    cfg_scale: float
    temperature: float
    top_k: int
    top_p: float
    cfg_min_p: float = 0.0
    cfg_interval: int = -1
    cfg_schedule: str = "constant"

    def __post_init__(self) -> None:
        for name, most in (("cfg_scale", MAX_SCALE), ("temperature", MAX_TEMPERATURE), ("cfg_min_p", 1)):
            value = getattr(self, name)
            if not _is_number(value) or not 0 <= value <= most:
                raise ValueError(f"{name} is {value!r}, must be a number from 0 to {most:g}")
        if not _is_number(self.top_p) or not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p!r}, must be above 0 and at most 1")
        for name, least, meaning in (("top_k", 0, "every code"), ("cfg_interval", -1, "every token")):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= MAX_INT:
                raise ValueError(f"{name} is {value!r}, must be an integer from {least} ({meaning})")
        if self.cfg_schedule not in SCHEDULES:
            raise ValueError(f"cfg_schedule is {self.cfg_schedule!r}, must be one of {', '.join(SCHEDULES)}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


OFFICIAL_DEFAULTS = {
    "class": SamplingDefaults(cfg_scale=4.0, temperature=1.0, top_k=2000, top_p=1.0),
    "text": SamplingDefaults(cfg_scale=7.5, temperature=1.0, top_k=1000, top_p=1.0),
}
"""Defaults by condition, as in the official ``sample_c2i.py`` and ``sample_t2i.py``."""
