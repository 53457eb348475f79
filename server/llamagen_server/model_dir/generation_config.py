"""How a model samples when a request does not say (``generation_config.json``)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path

from llamagen_server.model_dir.json_file import read_object, write_object
from vllm_llamagen.limits import MAX_INT, MAX_SCALE, MAX_TEMPERATURE


@dataclass(frozen=True)
class SamplingDefaults:
    """Guidance scale (>= 0, 1 is unguided), temperature (>= 0, 0 is greedy), top_k (0 is off), top_p (0 < p <= 1)."""

    cfg_scale: float
    temperature: float
    top_k: int
    top_p: float

    def __post_init__(self) -> None:
        for name, most in (("cfg_scale", MAX_SCALE), ("temperature", MAX_TEMPERATURE)):
            value = getattr(self, name)
            if not _is_number(value) or not 0 <= value <= most:
                raise ValueError(f"{name} is {value!r}, must be a number from 0 to {most:g}")
        if not _is_number(self.top_p) or not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p!r}, must be above 0 and at most 1")
        if not isinstance(self.top_k, int) or isinstance(self.top_k, bool) or not 0 <= self.top_k <= MAX_INT:
            raise ValueError(f"top_k is {self.top_k!r}, must be an integer from 0 (off)")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


OFFICIAL_DEFAULTS = {
    "class": SamplingDefaults(cfg_scale=4.0, temperature=1.0, top_k=2000, top_p=1.0),
    "text": SamplingDefaults(cfg_scale=7.5, temperature=1.0, top_k=1000, top_p=1.0),
}
"""By condition: the defaults of the official ``sample_c2i.py`` and ``sample_t2i.py``."""


def read_defaults(path: str | Path, condition: str) -> SamplingDefaults:
    """Reads the defaults of a model; what the file leaves out is as in the official sampler.

    Raises:
        ValueError: the file is not a JSON object, or a value is out of range; the message names the file.
    """
    if not Path(path).exists():
        return OFFICIAL_DEFAULTS[condition]
    stored = read_object(path)
    known = {f.name: stored[f.name] for f in fields(SamplingDefaults) if f.name in stored}
    try:
        return SamplingDefaults(**asdict(OFFICIAL_DEFAULTS[condition]) | known)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def write_defaults(path: str | Path, defaults: SamplingDefaults) -> None:
    write_object(path, {"do_sample": True} | asdict(defaults))  # do_sample: transformers warns without it
