"""The text stage: batches, and the cache of recent captions."""

from __future__ import annotations

import asyncio
import mmap
from pathlib import Path

import pytest
import torch

from llamagen_server.pipeline import build
from llamagen_server.stages.text import in_own_pages, num_page_bytes


async def test_captions_are_encoded_in_a_batch_and_cached(text_model_dir: Path) -> None:
    stage = build.text_stage(build.open_model(text_model_dir), torch.device("cpu"))
    stage._batcher.max_batch = 8
    captions = ["a red circle", "the small blue star on a large green square", "cat"]
    together = await asyncio.gather(*map(stage, captions))
    calls = []
    encode = stage._encoder.encode_text
    stage._encoder.encode_text = lambda tokens: calls.append(len(tokens)) or encode(tokens)  # type: ignore[method-assign]
    for caption, embeds in zip(captions, together, strict=True):
        assert await stage(f"  {caption} ") is embeds  # equal once it is cleaned
    assert calls == []
    alone = build.text_stage(build.open_model(text_model_dir), torch.device("cpu"))
    for caption, embeds in zip(captions, together, strict=True):
        torch.testing.assert_close(await alone(caption), embeds, atol=1e-5, rtol=0)
    for bad, message in (("", "empty"), ("cat " * 500, "tokens, at most")):
        with pytest.raises(ValueError, match=message):
            await stage(bad)
    stage.shutdown()
    alone.shutdown()


def test_cached_captions_have_memory_of_their_own() -> None:
    embeds = torch.arange(10.0, dtype=torch.bfloat16).view(2, 5)
    cached = in_own_pages(embeds)
    assert torch.equal(cached, embeds)
    assert cached.dtype == embeds.dtype
    assert cached.data_ptr() % mmap.PAGESIZE == 0
    assert num_page_bytes(embeds) == mmap.PAGESIZE
    assert num_page_bytes(torch.zeros(mmap.PAGESIZE + 1, dtype=torch.uint8)) == 2 * mmap.PAGESIZE
