"""Parity fails when what only the V2 model runner needs is broken on purpose."""

from __future__ import annotations

import pytest
from tests.helpers.golden import Golden
from vllm import SamplingParams

from vllm_llamagen.runner_v2 import LlamaGenModelState

pytestmark = pytest.mark.engine


def test_text_that_passes_for_image_tokens(text_model: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM hides which ids of a prompt are text; the model's state marks them again."""
    codes = text_model.expected["greedy.cfg7.5"][0].long()
    guidance = {"cfg_scale": 7.5, "start_index": 13}
    params = SamplingParams(temperature=0, max_tokens=51, detokenize=False, extra_args=guidance)

    def rest() -> list[int]:
        text_model.llm.reset_prefix_cache()
        [output] = text_model.llm.generate([text_model.prompt(0, codes[:13])], params, use_tqdm=False)
        return list(output.outputs[0].token_ids)

    assert rest() == codes[13:].tolist()
    monkeypatch.setattr(LlamaGenModelState, "_mark_text", lambda state, request: request)
    assert rest() != codes[13:].tolist()
