"""What a server does before it is ready, so that the first request is no slower than others."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.helpers.app import make_app
from tests.helpers.fake_engine import FakeEngine

from llamagen_server.pipeline.pipeline import Pipeline


@pytest.mark.parametrize("condition", ["class", "text"])
async def test_warming_up_samples_with_the_models_defaults(
    condition: str, class_model_dir: Path, text_model_dir: Path
) -> None:
    """And leaves the engine soon: the rest of the images is nobody's."""
    pipeline: Pipeline = make_app(class_model_dir if condition == "class" else text_model_dir).state.pipeline
    engine = pipeline.engine
    assert isinstance(engine, FakeEngine)
    engine.step = 0.001
    await pipeline.warm_up()
    defaults = pipeline.model.defaults
    assert [request.logprobs for request in engine.requests] == [False, True]
    for request in engine.requests:
        assert request.request_id.startswith("_")
        assert request.sampling.cfg_scale == defaults.cfg_scale
        assert request.sampling.temperature == defaults.temperature
        assert request.sampling.top_k == defaults.top_k
    assert sorted(engine.aborted) == sorted(request.request_id for request in engine.requests)
