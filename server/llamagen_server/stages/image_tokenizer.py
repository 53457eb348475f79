"""The image tokenizer stage: codes to pixels and pixels to codes, off the event loop."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from llamagen_server.core.results import Pixels
from llamagen_server.stages.batcher import Batcher
from llamagen_server.stages.exact_float32 import exact_float32
from llamagen_tokenizer import VQModel, from_uint8, to_uint8


class ImageTokenizerStage:
    """Decodes and encodes square images [side, side, 3], uint8; codes are in raster order."""

    def __init__(self, vq: VQModel, grid_size: int, max_batch: int = 1, calls: int = 1) -> None:
        """Up to ``calls`` calls run at a time, each with up to ``max_batch`` images."""
        self._vq = vq
        self.grid_size = grid_size
        self.side = grid_size * vq.config.downsample
        """Pixels per side."""
        self._decoded_side = self.side
        self._device = next(vq.parameters()).device
        self._threads = ThreadPoolExecutor(calls, thread_name_prefix="vq")
        self._decode = Batcher("decode", self._decode_batch, self._threads, max_batch, calls)
        self._encode = Batcher("encode", self._encode_batch, self._threads, max_batch, calls)

    def resize_decoded(self, side: int) -> None:
        """Resizes decoded images from now on: bicubic, before they are rounded, as the official script for FID does."""
        self._decoded_side = side

    def warm_up(self) -> None:
        """Decodes the largest batch and encodes an image: memory is allocated, and the first request is not slow."""
        decoded = self._decode_batch([[0] * self.grid_size**2] * self._decode.max_batch)
        self._encode_batch(decoded[:1])

    async def decode_image(self, codes: Sequence[int], client: str = "") -> Pixels:
        """Codes of one image -> its pixels. Clients get their turns."""
        return await self._decode(codes, client)

    async def encode_image(self, pixels: Pixels, client: str = "") -> list[int]:
        """Pixels of one image -> its codes. Clients get their turns."""
        return await self._encode(pixels, client)

    @exact_float32()
    @torch.inference_mode()
    def _decode_batch(self, batch: list[Sequence[int]]) -> list[Pixels]:
        codes = torch.tensor(batch, device=self._device).view(len(batch), self.grid_size, self.grid_size)
        images = self._vq.decode(codes)
        if self._decoded_side != self.side:
            images = torch.nn.functional.interpolate(images, size=[self._decoded_side] * 2, mode="bicubic")
        return list(to_uint8(images).cpu().numpy())

    @exact_float32()
    @torch.inference_mode()
    def _encode_batch(self, batch: list[Pixels]) -> list[list[int]]:
        images = from_uint8(torch.from_numpy(np.stack(batch)).to(self._device))
        return self._vq.encode(images).flatten(1).tolist()

    def shutdown(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
