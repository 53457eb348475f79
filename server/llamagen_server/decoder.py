"""The image tokenizer's decoder as a service: off the event loop, several images in one pass where that pays."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

from llamagen_tokenizer import VQModel, to_uint8


class ImageDecoder:
    """Decodes codes to pixels in one worker thread.

    Images that wait together are decoded together, at most ``max_batch`` at a time.
    """

    def __init__(self, vq: VQModel, grid_size: int, max_batch: int = 1) -> None:
        self._vq = vq
        self._grid_size = grid_size
        self._max_batch = max_batch
        self._device = next(vq.parameters()).device
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="vq")
        self._waiting: deque[tuple[list[int], asyncio.Future[NDArray[np.uint8]]]] = deque()
        self._worker: asyncio.Task[None] | None = None

    async def decode(self, codes: Sequence[int]) -> NDArray[np.uint8]:
        """Codes of one image in raster order -> pixels [height, width, 3], uint8."""
        future: asyncio.Future[NDArray[np.uint8]] = asyncio.get_running_loop().create_future()
        self._waiting.append((list(codes), future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(self._max_batch, len(self._waiting)))]
            batch = [(codes, future) for codes, future in batch if not future.done()]  # cancelled ones
            if not batch:
                continue
            try:
                pixels = await asyncio.get_running_loop().run_in_executor(
                    self._thread, self.decode_now, [codes for codes, _ in batch]
                )
            except Exception as error:  # whatever went wrong belongs to those who wait
                results: Sequence[NDArray[np.uint8] | Exception] = [error] * len(batch)
            else:
                results = list(pixels)
            for (_, future), result in zip(batch, results, strict=True):
                if future.done():
                    continue
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)

    @torch.inference_mode()
    def decode_now(self, batch: Sequence[Sequence[int]]) -> NDArray[np.uint8]:
        """Codes of several images -> pixels [images, height, width, 3], uint8, in the calling thread."""
        codes = torch.tensor(batch, device=self._device).view(len(batch), self._grid_size, self._grid_size)
        return to_uint8(self._vq.decode(codes)).cpu().numpy()

    def shutdown(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
