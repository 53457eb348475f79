"""Reads and writes ``generation_config.json``, the sampling defaults of a model."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path

from llamagen_server.core.sampling import OFFICIAL_DEFAULTS, SamplingDefaults
from llamagen_server.model_dir.json_file import read_object, write_object


def read_defaults(path: str | Path, condition: str) -> SamplingDefaults:
    """Reads the sampling defaults of a model. Values that the file lacks are those of the official sampler.

    Args:
        condition: ``class`` or ``text``.

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
