"""Supervision of the engine: a new one replaces one that ends or hangs, and every unfinished request goes on in it.

A request that goes on is sent again with the codes so far as forced tokens. vLLM's V1 runner draws a request's random
numbers one after the other from a generator of its own, so the draws of these tokens are consumed and the following
ones are those of an undisturbed run: the image is the same.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from typing import Protocol

from llamagen_server.core import metrics
from llamagen_server.core.errors import EngineError, EngineStoppedError
from llamagen_server.core.options import RestartPolicy
from llamagen_server.engine.interface import Engine, EngineOutput, EngineRequest
from llamagen_server.engine.suspects import Suspects
from vllm_llamagen.guidance_counts import GuidanceCounts

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5
"""Seconds between two looks at the engine."""
ANSWER_FACTOR = 50
"""An engine hangs when it owes an answer for this many times the mean time of an answer. The engine answers between
two steps, so the mean follows the time of a step."""
COMPUTING_SECONDS = 600.0
"""Seconds without an answer after which an engine that computes on a CPU hangs: a step with many prompts is long."""
SAVE_EVERY = 64
"""Codes after which the progress of a request without previews is kept."""
MAX_FAILED_STARTS = 3
"""Failed starts in a row after which no further one is tried."""
RETRY_SECONDS = 1.0
"""Pause after a failed start."""
MIN_START_SECONDS = 60.0
"""A restart hangs when it takes longer than this, and more than three times as long as the first start."""


class RestartableEngine(Engine, Protocol):
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

    def start(self) -> RestartableEngine:
        """Starts an engine; blocks until it can take requests.

        Raises:
            EngineStoppedError: the engine did not start.
        """
        ...

    def abort(self) -> None:
        """Kills the processes of a start that is under way; ``start`` then raises. Called from another thread."""
        ...


class _Run:
    """A request on its way through one or more engines."""

    def __init__(self, request: EngineRequest, num_image_tokens: int) -> None:
        self.request, self.num_image_tokens = request, num_image_tokens
        self.output = EngineOutput(list(request.prefix_tokens), [])
        """The codes so far."""
        self.life: _Life | None = None
        """The engine that the request was last sent to."""
        self.error: EngineError | None = None
        """Set when the request is to blame for the engine's ends."""

    def request_for_engine(self) -> EngineRequest:
        """Returns the request with the codes so far as forced tokens."""
        request, codes = self.request, self.output.codes
        every = request.update_every or SAVE_EVERY
        if len(codes) == len(request.prefix_tokens):
            return replace(request, update_every=every)
        rest = request.forced_tokens[len(codes) :] or [-1] * (self.num_image_tokens - len(codes))
        return replace(request, update_every=every, forced_tokens=[*codes, *rest])

    def take(self, output: EngineOutput) -> bool:
        """Keeps what is new in an output of the engine. Returns whether anything is."""
        known = self.output
        known.queue_seconds = output.queue_seconds
        if len(output.codes) <= len(known.codes):
            return False
        known.codes += output.codes[len(known.codes) :]
        known.logprobs += output.logprobs[len(known.logprobs) :]
        return True

    @property
    def is_finished(self) -> bool:
        return len(self.output.codes) == self.num_image_tokens


@dataclass(eq=False)
class _Life:
    """An engine from its start to its end."""

    engine: RestartableEngine
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    answer_seconds: float = 0.0
    """Mean time of an answer, of the most recent ones above all; 0: none yet."""


class SupervisedEngine:
    """An `Engine` that survives the ends of the engine behind it."""

    def __init__(self, starter: Starter, num_image_tokens: int, policy: RestartPolicy | None = None) -> None:
        """Starts the first engine; blocks until it can take requests.

        Raises:
            EngineStoppedError: the engine did not start.
        """
        self._starter, self._num_image_tokens, self._policy = starter, num_image_tokens, policy or RestartPolicy()
        start = time.monotonic()
        self._life: _Life | None = _Life(starter.start())
        self._start_timeout = max(MIN_START_SECONDS, 3 * (time.monotonic() - start))
        self.max_num_seqs = self._life.engine.max_num_seqs
        self._runs: set[_Run] = set()
        self._suspects: Suspects[_Run] = Suspects()
        self._ends: deque[float] = deque()
        """Times of the engine's ends within the policy's window."""
        self._failure: EngineStoppedError | None = None
        self._changed = asyncio.Event()
        """Replaced at every change that requests wait for."""
        self._supervision: asyncio.Task[None] | None = None

    @property
    def is_running(self) -> bool:
        return self._life is not None and not self._life.ended.is_set()

    async def check_health(self) -> None:
        self._supervise()
        if self._failure:
            raise self._failure

    async def guidance_counts(self) -> GuidanceCounts | None:
        life = self._life
        return await life.engine.guidance_counts() if life else None

    def shutdown(self) -> None:
        life = self._life
        self._fail(EngineStoppedError("the engine is shut down"))
        self._starter.abort()
        if life:
            life.ended.set()
            life.engine.shutdown()
        if self._supervision:
            with suppress(RuntimeError):  # its event loop is closed
                self._supervision.cancel()

    async def generate(self, request: EngineRequest) -> AsyncGenerator[EngineOutput]:
        self._supervise()
        run = _Run(request, self._num_image_tokens)
        self._runs.add(run)
        try:
            while True:
                life = await self._turn(run)
                if run.life:
                    metrics.IMAGES_RESUMED.inc()
                run.life = life
                with suppress(EngineStoppedError):
                    async with aclosing(_outputs(life, run.request_for_engine())) as outputs:
                        async for output in outputs:
                            if run.take(output) and (request.update_every or run.is_finished):
                                yield run.output
                    return
        finally:
            self._runs.discard(run)
            self._suspects.discard(run)
            self._announce_change()

    async def _turn(self, run: _Run) -> _Life:
        """Waits until an engine runs in which the request may run."""
        while True:
            if error := run.error or self._failure:
                raise error
            if self._life and not self._life.ended.is_set() and self._suspects.may_run(run):
                return self._life
            await self._changed.wait()

    def _announce_change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _supervise(self) -> None:
        """Starts the supervision in the event loop of the first request: the engine is older than that loop."""
        if self._supervision is None:
            self._supervision = asyncio.create_task(self._replace_engines())

    async def _replace_engines(self) -> None:
        while not self._failure:
            assert self._life
            try:
                how = await self._end(self._life)
                await self._replace(self._life, how)
            except Exception as error:  # nobody would notice the end of this task
                logger.exception("the supervision of the engine failed")
                self._fail(EngineStoppedError(f"the supervision of the engine failed: {error!r}"))

    async def _end(self, life: _Life) -> str:
        """Waits for the end of an engine. Returns how it ended: a label of `metrics.ENGINE_RESTARTS`."""
        while True:
            start = time.monotonic()
            ping = asyncio.create_task(life.engine.ping())
            silent = 0
            while not ping.done():
                await asyncio.wait({ping}, timeout=POLL_SECONDS)
                silent += 1  # counted in polls: while this process is held up, answers wait to be read
                if life.ended.is_set() or not life.engine.is_running:
                    ping.cancel()
                    return "ended"
                if silent * POLL_SECONDS >= self._bound(life):
                    ping.cancel()
                    return "hung"
            if ping.exception():
                return "ended"
            seconds = time.monotonic() - start
            life.answer_seconds = 0.9 * life.answer_seconds + 0.1 * seconds
            await asyncio.sleep(POLL_SECONDS)

    def _bound(self, life: _Life) -> float:
        """Returns the seconds without an answer after which the engine counts as hung."""
        if life.engine.is_computing():
            return COMPUTING_SECONDS
        return max(self._policy.hang_timeout, ANSWER_FACTOR * life.answer_seconds)

    async def _replace(self, life: _Life, how: str) -> None:
        """Replaces an engine; its requests wait for the new one."""
        running = [run for run in self._runs if run.life is life]
        life.ended.set()
        metrics.ENGINE_RESTARTS.labels(how).inc()
        logger.error("the engine %s with %d images in flight", how, len(running))
        life.engine.kill()
        await asyncio.sleep(0)  # the requests leave the engine
        self._life = None
        life.engine.shutdown()
        if to_blame := self._suspects.after_end(running):
            to_blame.error = EngineError("the engine ended whenever this request was running; see the server's log")
            self._announce_change()
        now = time.monotonic()
        self._ends.append(now)
        while self._ends[0] < now - self._policy.window:
            self._ends.popleft()
        if len(self._ends) > self._policy.max_restarts:
            self._fail(self._too_many_ends())
            return
        await self._start()

    async def _start(self) -> None:
        """Starts a new engine; tries again if that fails."""
        for _ in range(MAX_FAILED_STARTS):
            start = time.monotonic()
            starting = asyncio.create_task(asyncio.to_thread(self._starter.start))
            await asyncio.wait({starting}, timeout=self._start_timeout)
            if not starting.done():
                logger.error("the new engine hung: it did not start within %.0f s", self._start_timeout)
                self._starter.abort()
            try:
                engine = await starting
            except EngineError as error:
                logger.error("%s", error)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            if self._failure:  # shut down meanwhile
                engine.shutdown()
                return
            self._life = _Life(engine)
            logger.info("a new engine runs after %.0f s; %d images go on", time.monotonic() - start, len(self._runs))
            self._announce_change()
            return
        self._fail(EngineStoppedError(f"the engine ended, and {MAX_FAILED_STARTS} starts of a new one failed"))

    def _too_many_ends(self) -> EngineStoppedError:
        if self._policy.max_restarts == 0:
            return EngineStoppedError("the engine ended and is not restarted (--max-restarts 0); see the log above")
        return EngineStoppedError(
            f"the engine ended {len(self._ends)} times within {self._policy.window:g} s, "
            f"at most {self._policy.max_restarts} restarts are allowed (--max-restarts, --restart-window)"
        )

    def _fail(self, error: EngineStoppedError) -> None:
        self._failure, self._life = self._failure or error, None
        self._announce_change()


async def _outputs(life: _Life, request: EngineRequest) -> AsyncGenerator[EngineOutput]:
    """Yields the engine's outputs for a request.

    Raises:
        EngineStoppedError: the engine ended. It is not relied on to fail its requests itself.
    """
    ended = asyncio.create_task(life.ended.wait())
    try:
        async with aclosing(life.engine.generate(request)) as outputs:
            while (output := await _unless_ended(anext(outputs, None), ended)) is not None:
                yield output
    except EngineStoppedError:
        life.ended.set()
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
