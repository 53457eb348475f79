"""Fixtures of the conversion: flags of golden checkpoints, their weights, and a folder to write to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

Args = dict[str, Any]


@pytest.fixture
def c2i(golden_args: Callable[[str], Args]) -> Args:
    return golden_args("tiny_c2i")


@pytest.fixture
def t2i(golden_args: Callable[[str], Args], tiny_t5_dir: Path) -> Args:
    return golden_args("tiny_t2i") | {"text_encoder": tiny_t5_dir}


@pytest.fixture
def weights(golden_dir: Path) -> dict[str, torch.Tensor]:
    """The tensors of tiny_c2i."""
    return torch.load(golden_dir / "tiny_c2i.pt")["model"]


@pytest.fixture
def vq_weights(golden_dir: Path) -> dict[str, torch.Tensor]:
    """The tensors of tiny_vq."""
    return torch.load(golden_dir / "tiny_vq.pt")["model"]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out" / "model"
