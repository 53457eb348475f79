"""A request to vLLM, with a client that stands in for it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any

from llamagen_server.core.sampling import Sampling
from llamagen_server.engine.interface import EngineRequest
from llamagen_server.engine.vllm_engine import VLLMEngine

SAMPLING = Sampling(cfg_scale=2, cfg_interval=-1, cfg_schedule="constant", temperature=1, top_k=0, top_p=1, seed=7)


class Client:
    """vLLM's AsyncLLM: one code at a time, without an end."""

    def __init__(self) -> None:
        scheduler, parallel = SimpleNamespace(max_num_seqs=3), SimpleNamespace(data_parallel_size=2)
        self.vllm_config = SimpleNamespace(
            scheduler_config=scheduler, parallel_config=parallel, use_v2_model_runner=False
        )
        self.model_config = SimpleNamespace(hf_config=SimpleNamespace(codebook_size=512, num_image_tokens=64))
        self.calls: list[tuple[Any, ...]] = []
        self.closed = False

    async def generate(
        self, prompt: Any, params: Any, request_id: str, *, trace_headers: Any = None, priority: int = 0
    ) -> AsyncGenerator[SimpleNamespace]:
        self.calls.append((prompt, params.seed, request_id, priority))
        try:
            while True:
                yield SimpleNamespace(outputs=[SimpleNamespace(token_ids=[5], logprobs=None)], metrics=None)
        finally:
            self.closed = True


async def test_the_priority_is_passed_on_and_closing_stops_vllms_work() -> None:
    client = Client()
    engine = VLLMEngine(client)
    assert engine.max_num_seqs == 6
    request = EngineRequest("r-0", 3, SAMPLING, update_every=1, priority=11)
    async with aclosing(engine.generate(request)) as images:
        assert (await anext(images)).codes == [5]
        assert (await anext(images)).codes == [5, 5]
        assert not client.closed
    assert client.closed
    assert client.calls == [({"prompt_token_ids": [515]}, 7, "r-0", 11)]
