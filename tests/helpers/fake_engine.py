"""An engine that makes up codes without a model, so that everything around it is tested in milliseconds."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

from llamagen_server.core.errors import EngineStoppedError, InvalidRequestError
from llamagen_server.engine.interface import EngineOutput, EngineRequest
from vllm_llamagen.guidance_counts import GuidanceCounts


class FakeEngine:
    """An `Engine`. Codes depend on condition, scale and seed. ``requests`` records every request."""

    def __init__(self, codebook_size: int, num_image_tokens: int) -> None:
        self.max_num_seqs = 256
        self.resumes_from_prefix = False
        """Whether noise depends on seed and position alone, as in vLLM's V2 model runner."""
        self.codebook_size = codebook_size
        self.num_image_tokens = num_image_tokens
        self.requests: list[EngineRequest] = []
        self.aborted: list[str] = []
        self.go_on = asyncio.Event()
        """While cleared, no request gets its first code."""
        self.go_on.set()
        self.queue_seconds = 0.0
        """What each output reports."""
        self.step = 0.0
        """Seconds before each output."""
        self.delay = 0.0
        """Seconds before each request."""
        self.error: Exception | None = None
        self.error_at = 0
        self.error_seeds: frozenset[int] | None = None
        """Seeds that ``error`` applies to; None: all."""
        self.dead = False
        self.counts = GuidanceCounts()
        self.weights_version = 0
        self.updates: list[Path] = []
        self.update_error: Exception | None = None
        self.update_answers = True
        self.can_sleep, self.sleeps = True, 0
        self._arrival = asyncio.Condition()

    async def until_requested(self, count: int) -> None:
        """Waits until ``count`` requests have arrived."""
        async with self._arrival:
            await self._arrival.wait_for(lambda: len(self.requests) >= count)

    async def generate(self, request: EngineRequest) -> AsyncGenerator[EngineOutput]:
        self.requests.append(request)
        async with self._arrival:
            self._arrival.notify_all()
        try:
            async with aclosing(self._sample(request)) as images:
                async for image in images:
                    yield image
        except (asyncio.CancelledError, GeneratorExit):
            self.aborted.append(request.request_id)
            raise

    def _count(self, request: EngineRequest) -> None:
        if request.sampling.cfg_scale == 1:
            self.counts.conditional += 1
        else:
            self.counts.guided += 1

    async def _sample(self, request: EngineRequest) -> AsyncGenerator[EngineOutput]:
        seed = request.sampling.seed
        await asyncio.sleep(self.delay)
        fails = self.error is not None and (self.error_seeds is None or seed in self.error_seeds)
        if not fails and not request.request_id.startswith("_"):  # those warm the engine up
            await self.go_on.wait()
        self._count(request)
        condition = request.condition if isinstance(request.condition, int) else tuple(request.condition.shape)
        key = repr((condition, request.sampling.cfg_scale, seed))
        noise = random.Random(key)
        forced = dict(enumerate(request.forced_tokens))
        image = EngineOutput(list(request.prefix_tokens), [], self.queue_seconds)
        for token in range(len(image.codes), self.num_image_tokens):
            if fails and token >= self.error_at:
                assert self.error is not None
                raise self.error
            if self.resumes_from_prefix:
                noise = random.Random(f"{key} {token}")
            code = noise.randrange(self.codebook_size)
            is_sampled = forced.get(token, -1) < 0
            image.codes.append(code if is_sampled else forced[token])
            if request.logprobs or request.branch_logprobs:
                image.logprobs.append(-1.0 if is_sampled else 0.0)
            if request.branch_logprobs:
                image.branch_logprobs.append((-2.0, -3.0))
            new = token + 1 - len(request.prefix_tokens)
            # As vLLM: after the first code, then after every ``update_every`` codes.
            if request.update_every and (new - 1) % request.update_every == 0:
                await asyncio.sleep(self.step)
                yield image
        yield image

    @property
    def is_running(self) -> bool:
        return not self.dead

    async def check_health(self) -> None:
        if self.dead:
            raise EngineStoppedError("the engine stopped; see the server's log")

    async def guidance_counts(self) -> GuidanceCounts:
        await self.check_health()
        return replace(self.counts)

    async def update_weights(self, folder: Path, version: int) -> None:
        await self.check_health()
        if not self.update_answers:
            await asyncio.Event().wait()
        if self.update_error:
            raise self.update_error
        self.updates.append(folder)
        self.weights_version = version

    async def sleep(self) -> None:
        await self.check_health()
        if not self.can_sleep:
            raise InvalidRequestError("this engine cannot sleep")
        self.sleeps += 1

    async def wake_up(self) -> None:
        self.sleeps -= 1

    def shutdown(self) -> None:
        self.dead = True
