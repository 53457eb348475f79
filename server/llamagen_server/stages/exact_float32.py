"""Float32 that is float32, on a GPU too: codes of an image must be those that a CPU finds.

By default cuDNN rounds the inputs of float32 convolutions to TF32, which has 10 bits of mantissa. The settings belong
to the whole process, which may be somebody's trainer, so they change only while a stage computes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_SETTINGS = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)  # type: ignore[attr-defined]
_lock = threading.Lock()
_inside = 0
_before: list[str] = []


@contextmanager
def exact_float32() -> Iterator[None]:
    """Turns TF32 off. Several threads may be inside; the last one to leave restores the settings."""
    global _inside, _before
    with _lock:
        if not _inside:
            _before = [setting.fp32_precision for setting in _SETTINGS]
            for setting in _SETTINGS:
                setting.fp32_precision = "ieee"
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                for setting, value in zip(_SETTINGS, _before, strict=True):
                    setting.fp32_precision = value
