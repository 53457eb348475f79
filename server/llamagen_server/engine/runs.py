"""What the supervisor keeps of its engines and of their requests."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Protocol

from llamagen_server.core.errors import EngineError, EngineStoppedError
from llamagen_server.engine.interface import Engine, EngineOutput, EngineRequest

SAVE_EVERY = 64
"""Codes after which the progress of a request without previews is kept."""


class RestartableEngine(Engine, Protocol):
    resumes_from_prefix: bool
    """Whether an image goes on as it was when its codes so far are prefix tokens. Else they are sampled again, forced:
    a draw depends on the draws before it."""

    async def ping(self) -> None:
        """Returns when the engine has answered, which it does between two steps."""
        ...

    def is_computing(self) -> bool:
        """Whether the engine's processes have used a CPU since the last call. False where that means nothing."""
        ...

    def kill(self) -> None:
        """Kills the engine's processes, also those that hang."""
        ...


class Starter(Protocol):
    """Starts engines, one after the other."""

    def start(self, timeout: float = math.inf) -> RestartableEngine:
        """Starts an engine; blocks until it can take requests.

        Raises:
            EngineStoppedError: the engine did not start, or not within ``timeout`` seconds.
        """
        ...

    def shutdown(self) -> None:
        """Ends a start that is under way in another thread, and every later one, with `EngineStoppedError`."""
        ...


class Run:
    """A request on its way through one or more engines."""

    def __init__(self, request: EngineRequest, num_image_tokens: int) -> None:
        self.request, self.num_image_tokens = request, num_image_tokens
        self.output = EngineOutput(list(request.prefix_tokens), [])
        """The codes so far."""
        self.life: Life | None = None
        """The engine that the request was last sent to."""
        self.error: EngineError | None = None
        """Set when the request is to blame for the engine's ends."""

    def request_for_engine(self, engine: RestartableEngine) -> EngineRequest:
        """Returns the request with the codes so far as prefix tokens or forced tokens, whichever the engine needs."""
        request, codes = self.request, self.output.codes
        every = request.update_every or SAVE_EVERY
        if len(codes) == len(request.prefix_tokens):
            return replace(request, update_every=every)
        if engine.resumes_from_prefix:
            return replace(request, update_every=every, prefix_tokens=list(codes))
        rest = request.forced_tokens[len(codes) :] or [-1] * (self.num_image_tokens - len(codes))
        return replace(request, update_every=every, forced_tokens=[*codes, *rest])

    def take(self, output: EngineOutput) -> bool:
        """Keeps what is new in an output of the engine. Returns whether anything is."""
        known = self.output
        known.queue_seconds = output.queue_seconds
        new = len(output.codes) - len(known.codes)
        if new <= 0:
            return False
        known.codes += output.codes[-new:]
        known.logprobs += output.logprobs[-new:]
        known.branch_logprobs += output.branch_logprobs[-new:]
        return True

    @property
    def is_finished(self) -> bool:
        return len(self.output.codes) == self.num_image_tokens


@dataclass(eq=False)
class Life:
    """An engine from its start to its end."""

    engine: RestartableEngine
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    answer_seconds: float = 0.0
    """Mean time of an answer, of the most recent ones above all; 0: none yet."""

    async def outputs(self, request: EngineRequest) -> AsyncGenerator[EngineOutput]:
        """Yields the engine's outputs for a request.

        Raises:
            EngineStoppedError: the engine ended. It is not relied on to fail its requests itself.
        """
        ended = asyncio.create_task(self.ended.wait())
        try:
            async with aclosing(self.engine.generate(request)) as outputs:
                while (output := await _unless_ended(anext(outputs, None), ended)) is not None:
                    yield output
        except EngineStoppedError:
            self.ended.set()
            raise
        finally:
            ended.cancel()


async def _unless_ended(step: Awaitable[EngineOutput | None], ended: asyncio.Task[bool]) -> EngineOutput | None:
    task = asyncio.ensure_future(step)
    try:
        await asyncio.wait({task, ended}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise EngineStoppedError("the engine ended")
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
