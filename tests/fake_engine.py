"""An engine that makes codes without a model, so that everything around it is tested in milliseconds."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

from llamagen_server.engine import EngineRequest
from llamagen_server.errors import EngineError


class FakeEngine:
    """The codes of an image depend on its condition, scale and seed; ``requests`` holds what was asked."""

    def __init__(self, codebook_size: int, num_image_tokens: int) -> None:
        self.codebook_size = codebook_size
        self.num_image_tokens = num_image_tokens
        self.requests: list[EngineRequest] = []
        self.aborted: list[str] = []
        self.delay = 0.0
        self.error: Exception | None = None
        self.dead = False

    async def generate(self, request: EngineRequest) -> AsyncIterator[list[int]]:
        self.requests.append(request)
        try:
            await asyncio.sleep(self.delay)
        except asyncio.CancelledError:
            self.aborted.append(request.request_id)
            raise
        if self.error is not None:
            raise self.error
        condition = request.condition if isinstance(request.condition, int) else tuple(request.condition.shape)
        draw = random.Random(repr((condition, request.sampling.cfg_scale, request.sampling.seed)))
        yield [draw.randrange(self.codebook_size) for _ in range(self.num_image_tokens)]

    async def check_health(self) -> None:
        if self.dead:
            raise EngineError("the engine stopped; see the server's log")

    def shutdown(self) -> None:
        self.dead = True
