"""The text stage: prompts to prompt embeddings, off the event loop. Recent prompts are cached."""

from __future__ import annotations

import asyncio
import mmap
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from cachetools import LRUCache
from torch import Tensor

from llamagen_server.stages.batcher import Batcher
from llamagen_server.stages.text_encoder import TextEncoder
from vllm_llamagen.caption_projection import CaptionProjection

CACHE_BYTES = 64 * 2**20


class TextStage:
    """The text encoder and the caption projection of a text model."""

    def __init__(self, encoder: TextEncoder, projection: CaptionProjection, max_batch: int = 1) -> None:
        """Encoder and projection are on the same device. ``max_batch`` prompts are encoded in one call."""
        self._encoder, self._projection = encoder, projection
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="text")
        self._batcher = Batcher("text", self._encode_text, self._thread, max_batch)
        self._recent: LRUCache[bytes, Tensor] = LRUCache(CACHE_BYTES, getsizeof=num_page_bytes)

    async def __call__(self, prompt: str, client: str = "") -> Tensor:
        """Returns prompt embeddings [tokens, branches * dim], on the CPU. Clients get their turns.

        Raises:
            ValueError: the prompt is empty or too long.
        """
        tokens = await asyncio.to_thread(self._encoder.tokenize, prompt)
        key = tokens.numpy().tobytes()
        if (embeds := self._recent.get(key)) is None:
            embeds = await self._batcher(tokens, client)
            if num_page_bytes(embeds) <= CACHE_BYTES:
                embeds = self._recent[key] = in_own_pages(embeds)
        return embeds

    def check(self, prompts: Mapping[int, str], truncate: bool = False) -> None:
        """Tokenizes prompts without encoding them.

        Args:
            prompts: by their numbers.
            truncate: cut long prompts, from now on, as the official pipeline does, instead of refusing them.

        Raises:
            ValueError: a prompt is empty or too long; the message has its number.
        """
        self._encoder.truncates = truncate
        for number, prompt in prompts.items():
            try:
                self._encoder.tokenize(prompt)
            except ValueError as error:
                raise ValueError(f"caption {number}: {error}") from None

    def replace_projection(self, projection: CaptionProjection) -> None:
        """Replaces the caption projection, and forgets what the old one gave."""
        weight = self._projection.fc1
        self._projection = projection.to(weight.device, weight.dtype)
        self._recent.clear()

    def warm_up(self) -> None:
        """Encodes the largest batch once: its memory is allocated, and the first request is not slow."""
        self._encode_text([torch.zeros(self._encoder.max_tokens, dtype=torch.int64)] * self._batcher.max_batch)

    @torch.inference_mode()
    def _encode_text(self, prompts: Sequence[Tensor]) -> list[Tensor]:
        return [self._projection(hidden).cpu() for hidden in self._encoder.encode_text(prompts)]

    def shutdown(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


def num_page_bytes(tensor: Tensor) -> int:
    """Returns the bytes of the memory pages that a tensor fills."""
    return -(-tensor.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE


def in_own_pages(tensor: Tensor) -> Tensor:
    """Copies a tensor on the CPU into memory pages of its own, which go back to the system with it.

    The heap is for what is freed soon. Thousands of small blocks that stay, and then go one by one, would leave gaps
    there that are too small for the decoder's large blocks: the process grew by 2 MiB a minute.
    """
    return torch.frombuffer(mmap.mmap(-1, tensor.nbytes), dtype=tensor.dtype).view_as(tensor).copy_(tensor)
