"""Engines without a model that end, hang and start as a test wants."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import AsyncGenerator

from tests.helpers.fake_engine import FakeEngine

from llamagen_server.core.errors import EngineStoppedError
from llamagen_server.engine.interface import EngineOutput, EngineRequest


class MortalEngine(FakeEngine):
    """A `RestartableEngine`. Outputs come one at a time, a turn of the event loop apart."""

    def __init__(self, starter: FakeStarter) -> None:
        super().__init__(512, starter.num_image_tokens)
        self.resumes_from_prefix = starter.resumes_from_prefix
        self.update_answers = starter.update_answers
        self.starter = starter
        self.hangs = False
        self.computing = False
        self.reports_end = True
        """False: its requests wait forever after its end."""
        self.killed = False

    async def generate(self, request: EngineRequest) -> AsyncGenerator[EngineOutput]:
        if request.sampling.seed in self.starter.poison:
            self.dead = True
        async for output in super().generate(request):
            await asyncio.sleep(0)
            self.starter.outputs += 1
            if self.starter.outputs in self.starter.deaths:
                self.starter.deaths.remove(self.starter.outputs)
                self.dead = True
            if self.hangs or (self.dead and not self.reports_end):
                await asyncio.Event().wait()
            if self.dead:
                raise EngineStoppedError("dead")
            yield output

    async def ping(self) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        if self.dead:
            raise EngineStoppedError("dead")

    def is_computing(self) -> bool:
        return self.computing

    def kill(self) -> None:
        self.killed = self.dead = True


class FakeStarter:
    """A `Starter`; ``engines`` are those that it has started."""

    def __init__(self, num_image_tokens: int = 64) -> None:
        self.num_image_tokens = num_image_tokens
        self.engines: list[MortalEngine] = []
        self.resumes_from_prefix = False
        self.update_answers = True
        """Whether new engines load weights, in place of hanging then."""
        self.poison: set[int] = set()
        """Seeds of requests that kill their engine."""
        self.deaths: set[int] = set()
        """Numbers of outputs at which an engine dies."""
        self.outputs = 0
        """Outputs of all engines."""
        self.failures = 0
        """Starts that fail, from now on."""
        self.hanging_starts = 0
        self.timeouts: list[float] = []
        """Of the starts that hung."""
        self.go_on = threading.Event()
        """Ends a start that hangs."""

    def start(self, timeout: float = math.inf) -> MortalEngine:
        if self.hanging_starts:
            self.hanging_starts -= 1
            self.timeouts.append(timeout)
            self.go_on.wait()
            self.go_on.clear()
            raise EngineStoppedError("it hung")
        if self.failures:
            self.failures -= 1
            raise EngineStoppedError("did not start")
        self.engines.append(MortalEngine(self))
        return self.engines[-1]

    def shutdown(self) -> None:
        self.go_on.set()
