"""The V2 model runner with torch.compile, piecewise as vLLM cuts the model at its attention."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.helpers.golden import Golden, StartEngine

pytestmark = pytest.mark.engine


@pytest.mark.parametrize("window", [0, 8])
def test_compiled_class_model_tokens(
    start_engine: StartEngine, class_model_dir: Path, class_model: Golden, window: int
) -> None:
    llm = start_engine(class_model_dir, enforce_eager=False, decode_window=window)
    assert replace(class_model, llm=llm).wrong_tokens() == 0


def test_compiled_text_model_with_a_window(start_engine: StartEngine, text_model_dir: Path, text_model: Golden) -> None:
    llm = start_engine(text_model_dir, enforce_eager=False, decode_window=8)
    assert replace(text_model, llm=llm).wrong_tokens() == 0
