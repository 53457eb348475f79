"""The engine's counts of guided images, in the metrics of this process."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import REGISTRY
from tests.helpers.fake_engine import FakeEngine
from tests.helpers.waiting import until

from llamagen_server.core.errors import EngineError
from llamagen_server.engine import guidance_watch
from llamagen_server.engine.guidance_watch import GuidanceWatch, watch_guidance
from llamagen_server.engine.vllm_engine import VLLMEngine
from vllm_llamagen.guidance_counts import EXTENSION, GuidanceCounts
from vllm_llamagen.vllm_compat import EngineDeadError


def read() -> tuple[float, ...]:
    """Guided, conditional and unguided images in the metrics."""
    found = [
        REGISTRY.get_sample_value("llamagen_guided_images_total", {"branches": "2"}),
        REGISTRY.get_sample_value("llamagen_guided_images_total", {"branches": "1"}),
        REGISTRY.get_sample_value("llamagen_unguided_total"),
    ]
    return tuple(value or 0.0 for value in found)


def grown(before: tuple[float, ...]) -> list[float]:
    return [now - then for now, then in zip(read(), before, strict=True)]


def engine_with(**counts: int) -> FakeEngine:
    engine = FakeEngine(512, 64)
    engine.counts = GuidanceCounts(**counts)  # type: ignore[arg-type]
    return engine


async def test_what_an_engine_counts_is_added_once() -> None:
    before, watch, engine = read(), GuidanceWatch(), engine_with(guided=5, conditional=2)
    await watch.poll(engine)
    await watch.poll(engine)
    assert grown(before) == [5, 2, 0]
    engine.counts.guided, engine.counts.unguided = 6, 1
    await watch.poll(engine)
    assert grown(before) == [6, 2, 1]


async def test_a_new_engine_counts_from_zero() -> None:
    """Even if it has counted more than the last one when it is asked for the first time."""
    before, watch = read(), GuidanceWatch()
    for guided in (5, 3, 7):
        await watch.poll(engine_with(guided=guided))
    assert grown(before) == [15, 0, 0]


async def test_an_engine_that_does_not_answer_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guidance_watch, "POLL_SECONDS", 0.01)
    before, watch, engine = read(), GuidanceWatch(), engine_with(guided=5)
    engine.dead = True
    await watch.poll(engine)
    engine.dead = False
    engine.guidance_counts = asyncio.Event().wait  # type: ignore[method-assign, assignment]
    await watch.poll(engine)
    assert grown(before) == [0, 0, 0]


async def test_the_engine_is_polled_until_the_task_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guidance_watch, "POLL_SECONDS", 0.001)
    before, engine = read(), engine_with(guided=1)
    task = asyncio.create_task(watch_guidance(engine, GuidanceWatch()))

    async def are_counted() -> bool:
        return grown(before) == [engine.counts.guided, 0, 0]

    await until(are_counted)
    engine.counts.guided = 2
    await until(are_counted)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def vllm_engine(workers: list[GuidanceCounts] | Exception, extension: str = EXTENSION) -> VLLMEngine:
    """An engine whose workers answer with these counts."""

    async def collective_rpc(method: str) -> list[dict[str, Any]]:
        assert method == "guidance_counts"
        if isinstance(workers, Exception):
            raise workers
        return [asdict(counts) for counts in workers]

    config = SimpleNamespace(
        use_v2_model_runner=False,
        scheduler_config=SimpleNamespace(max_num_seqs=1),
        parallel_config=SimpleNamespace(data_parallel_size=1, worker_extension_cls=extension),
    )
    model = SimpleNamespace(hf_config=SimpleNamespace(codebook_size=512, num_image_tokens=64))
    llm: Any = SimpleNamespace(vllm_config=config, model_config=model, collective_rpc=collective_rpc)
    return VLLMEngine(llm)


async def test_images_of_several_workers_count_once() -> None:
    workers = [GuidanceCounts(guided=3, unguided=1), GuidanceCounts(guided=3, unguided=1)]
    assert await vllm_engine(workers).guidance_counts() == workers[0]


async def test_workers_with_another_extension_are_not_asked() -> None:
    assert await vllm_engine(AssertionError(), "other.Extension").guidance_counts() is None


async def test_an_engine_that_ended_has_no_counts() -> None:
    with pytest.raises(EngineError):
        await vllm_engine(EngineDeadError()).guidance_counts()
