"""Stand-ins for the classes that checkpoints hold besides tensors, so that none of these is made from a file's bytes.

NumPy's own constructors must not be called: they trust what they are given, so an array of objects over a file's bytes
reads memory at any address. torch's unpickler fills no containers but plain ones.
"""

from __future__ import annotations

import argparse
import re
import types
from collections.abc import Iterable
from typing import Any

import numpy as np

_NUMBER_OR_TEXT = re.compile(r"[biufcSU]\d+")
"""NumPy's codes of the types whose values are plain bytes."""


class NumpyType:
    """A NumPy dtype, as it is pickled: ``dtype("f8", False, True)`` and a state with the byte order."""

    def __init__(self, code: object, *_: object) -> None:
        self.code = str(code)
        self.order = "="

    def __setstate__(self, state: tuple[object, ...]) -> None:
        if state[1] in ("<", ">"):
            self.order = str(state[1])


class NumpyArray:
    """A NumPy array, whose values are not read."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


def numpy_scalar(dtype: object, data: object = None) -> object:
    """Returns the number or text of a NumPy scalar; None for one of another type."""
    if isinstance(dtype, NumpyType) and _NUMBER_OR_TEXT.fullmatch(dtype.code) and isinstance(data, bytes):
        return np.frombuffer(data, dtype.order + dtype.code, count=1)[0].item()
    return None


class Callback:
    """The class of a Lightning callback, by which Lightning before 1.5 stores the callback's state."""


def plain_dict(_factory: object = None) -> dict[object, object]:
    """Returns the dictionary in place of a ``defaultdict``."""
    return {}


def plain_list(items: Iterable[object] = (), _maxlen: object = None) -> list[object]:
    """Returns the list in place of a ``deque``."""
    return list(items)


HARMLESS: list[Any] = [
    argparse.Namespace,
    types.SimpleNamespace,
    *(frozenset, dict, list, tuple, int, float, str, bool),
    (plain_dict, "collections.defaultdict"),
    (plain_list, "collections.deque"),
    (NumpyType, "numpy.dtype"),
    (NumpyArray, "numpy.ndarray"),
    *((NumpyArray, f"numpy.{module}.multiarray._reconstruct") for module in ("core", "_core")),
    *((numpy_scalar, f"numpy.{module}.multiarray.scalar") for module in ("core", "_core")),
    (Callback, "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"),
]
"""For `torch.serialization.safe_globals`: what a checkpoint may hold, by its own name or by that of the class that is
replaced. The builtins are the factories of a ``defaultdict``; ``numpy.core`` is the name before NumPy 2."""
