"""An engine that makes codes without a model, so that everything around it is tested in milliseconds."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

from llamagen_server.core.errors import EngineError
from llamagen_server.engine.vllm_engine import EngineOutput, EngineRequest


class FakeEngine:
    """The codes of an image depend on its condition, scale and seed; ``requests`` holds what was asked."""

    def __init__(self, codebook_size: int, num_image_tokens: int) -> None:
        self.codebook_size = codebook_size
        self.num_image_tokens = num_image_tokens
        self.requests: list[EngineRequest] = []
        self.aborted: list[str] = []
        self.delay = 0.0
        self.step = 0.0
        self.error: Exception | None = None
        self.error_at = 0
        self.dead = False

    async def generate(self, request: EngineRequest) -> AsyncIterator[EngineOutput]:
        self.requests.append(request)
        try:
            async for image in self._draw(request):
                yield image
        except asyncio.CancelledError:
            self.aborted.append(request.request_id)
            raise

    async def _draw(self, request: EngineRequest) -> AsyncIterator[EngineOutput]:
        await asyncio.sleep(self.delay)
        condition = request.condition if isinstance(request.condition, int) else tuple(request.condition.shape)
        draw = random.Random(repr((condition, request.sampling.cfg_scale, request.sampling.seed)))
        forced = dict(enumerate(request.forced_codes))
        image = EngineOutput(list(request.known_codes), [])
        for token in range(len(image.codes), self.num_image_tokens):
            if self.error is not None and token >= self.error_at:
                raise self.error
            code = draw.randrange(self.codebook_size)
            is_free = forced.get(token, -1) < 0
            image.codes.append(code if is_free else forced[token])
            if request.logprobs:
                image.logprobs.append(-1.0 if is_free else 0.0)
            new = token + 1 - len(request.known_codes)
            # As vLLM: after the first code, then after every so many.
            if request.update_every and (new - 1) % request.update_every == 0:
                await asyncio.sleep(self.step)
                yield image
        yield image

    async def check_health(self) -> None:
        if self.dead:
            raise EngineError("the engine stopped; see the server's log")

    def shutdown(self) -> None:
        self.dead = True
