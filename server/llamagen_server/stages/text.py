"""From a caption to prompt embeddings, off the event loop; those of recent captions are kept."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from cachetools import LRUCache
from torch import Tensor

from llamagen_server.stages.batcher import Batcher
from llamagen_server.stages.text_encoder import TextEncoder
from vllm_llamagen.caption_projection import TextCondition

CACHE_BYTES = 64 * 2**20


class TextStage:
    """The text encoder and the caption projection of a text model."""

    def __init__(self, encoder: TextEncoder, condition: TextCondition, max_batch: int = 1) -> None:
        """Encoder and condition are on the same device. The cache is bounded in bytes."""
        self._encoder, self._condition = encoder, condition
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="text")
        self._batcher = Batcher("text", self._encode, self._thread, max_batch)
        self._recent: LRUCache[bytes, Tensor] = LRUCache(CACHE_BYTES, getsizeof=lambda rows: rows.nbytes)

    async def __call__(self, caption: str) -> Tensor:
        """Prompt embeddings [tokens, streams * dim].

        Raises:
            ValueError: the caption is empty or too long.
        """
        tokens = await asyncio.to_thread(self._encoder.tokenize, caption)
        key = tokens.numpy().tobytes()
        if (rows := self._recent.get(key)) is None:
            rows = await self._batcher(tokens)
            if rows.nbytes <= CACHE_BYTES:
                self._recent[key] = rows
        return rows

    def warm_up(self) -> None:
        """Encodes the largest batch once, so that its memory is taken and the first request is not slow."""
        self._encode([torch.zeros(self._encoder.max_tokens, dtype=torch.int64)] * self._batcher.max_batch)

    @torch.inference_mode()
    def _encode(self, captions: Sequence[Tensor]) -> list[Tensor]:
        return [self._condition(rows).cpu() for rows in self._encoder.encode(captions)]

    def shutdown(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
