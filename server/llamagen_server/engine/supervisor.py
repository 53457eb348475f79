"""Supervision of the engine: a new one replaces one that ends or hangs, and every unfinished request goes on in it.

A request that goes on is sent again with the codes so far, and its image is the same. vLLM's V1 runner draws the
random numbers of a request one after the other from a generator of its own: there the codes are forced tokens, whose
draws are consumed, so that the following ones are those of an undisturbed run. In the V2 runner a draw depends on seed
and position alone, so there the codes are prefix tokens.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from contextvars import Context
from pathlib import Path

from llamagen_server.core import metrics
from llamagen_server.core.errors import EngineError, EngineStoppedError
from llamagen_server.core.options import RestartPolicy
from llamagen_server.engine.interface import EngineOutput, EngineRequest
from llamagen_server.engine.runs import Life, RestartableEngine, Run, Starter
from llamagen_server.engine.suspects import Suspects
from vllm_llamagen.guidance_counts import GuidanceCounts

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5
"""Seconds between two looks at the engine."""
ANSWER_FACTOR = 50
"""An engine hangs when it owes an answer for this many times the mean time of an answer. The engine answers between
two steps, so the mean follows the time of a step."""
COMPUTING_SECONDS = 600.0
"""Seconds without an answer after which an engine hangs that computes on a CPU, where a step with many prompts is long,
or that loads new weights."""
MAX_FAILED_STARTS = 3
"""Failed starts in a row after which no further one is tried."""
RETRY_SECONDS = 1.0
"""Pause after a failed start."""
MIN_START_SECONDS = 60.0
"""A restart is given up when it takes longer than this, and more than three times as long as the first start."""


class SupervisedEngine:
    """An `Engine` that survives the ends of the engine behind it."""

    def __init__(self, starter: Starter, num_image_tokens: int, policy: RestartPolicy = RestartPolicy()) -> None:
        """Starts the first engine; blocks until it can take requests.

        Raises:
            EngineStoppedError: the engine did not start.
        """
        self._starter, self._num_image_tokens, self._policy = starter, num_image_tokens, policy
        start = time.monotonic()
        self._life: Life | None = Life(starter.start())
        self._start_timeout = max(MIN_START_SECONDS, 3 * (time.monotonic() - start))
        self.max_num_seqs = self._life.engine.max_num_seqs
        self.weights_version = 0
        self._weights: Path | None = None
        """Folder of the weights of version `weights_version`; None: those that an engine starts with."""
        self._is_updating = False
        self._runs: set[Run] = set()
        self._suspects: Suspects[Run] = Suspects()
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

    async def sleep(self) -> None:
        life = await self._running_life()
        await life.engine.sleep()

    async def wake_up(self) -> None:
        life = await self._running_life()
        await life.engine.wake_up()

    async def _running_life(self) -> Life:
        """Waits until an engine runs."""
        self._supervise()
        while (life := self._life) is None or life.ended.is_set():
            if self._failure:
                raise self._failure
            await self._changed.wait()
        return life

    async def update_weights(self, folder: Path, version: int) -> None:
        life = await self._running_life()
        self._is_updating = True  # the engine answers no ping meanwhile
        try:
            await self._load_weights(life.engine, folder, version, COMPUTING_SECONDS)
        finally:
            self._is_updating = False
        self._weights, self.weights_version = folder, version

    def shutdown(self) -> None:
        life = self._life
        self._fail(EngineStoppedError("the engine is shut down"))
        self._starter.shutdown()
        if life:
            life.ended.set()
            life.engine.shutdown()
        if self._supervision:
            with suppress(RuntimeError):  # its event loop is closed
                self._supervision.cancel()

    async def generate(self, request: EngineRequest) -> AsyncGenerator[EngineOutput]:
        self._supervise()
        run = Run(request, self._num_image_tokens)
        self._runs.add(run)
        try:
            while True:
                life = await self._turn(run)
                if run.life:
                    metrics.IMAGES_RESUMED.inc()
                run.life = life
                with suppress(EngineStoppedError):
                    async with aclosing(life.outputs(run.request_for_engine(life.engine))) as outputs:
                        async for output in outputs:
                            if run.take(output) and (request.update_every or run.is_finished):
                                yield run.output
                    return
                if run.is_finished:
                    return
        finally:
            self._runs.discard(run)
            self._suspects.discard(run)
            self._announce_change()

    async def _turn(self, run: Run) -> Life:
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
        if self._supervision is None:  # in a context of its own, as its log lines belong to no request
            self._supervision = asyncio.create_task(self._replace_engines(), context=Context())

    async def _replace_engines(self) -> None:
        while not self._failure:
            assert self._life
            try:
                how = await self._end(self._life)
                await self._replace(self._life, how)
            except Exception as error:  # nobody would notice the end of this task
                logger.exception("the supervision of the engine failed")
                self._fail(EngineStoppedError(f"the supervision of the engine failed: {error!r}"))

    async def _end(self, life: Life) -> str:
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
                if not ping.done() and silent * POLL_SECONDS >= self._bound(life):
                    ping.cancel()
                    return "hung"
            if ping.exception():
                return "ended"
            seconds = time.monotonic() - start
            life.answer_seconds = 0.9 * life.answer_seconds + 0.1 * seconds
            await asyncio.sleep(POLL_SECONDS)

    def _bound(self, life: Life) -> float:
        """Returns the seconds without an answer after which the engine counts as hung."""
        if self._is_updating or life.engine.is_computing():
            return COMPUTING_SECONDS
        return max(self._policy.hang_timeout, ANSWER_FACTOR * life.answer_seconds)

    async def _replace(self, life: Life, how: str) -> None:
        """Replaces an engine; its requests wait for the new one."""
        life.ended.set()
        metrics.ENGINE_RESTARTS.labels(how).inc()
        life.engine.kill()
        await asyncio.sleep(0)  # the requests leave the engine
        self._life = None
        life.engine.shutdown()
        running = [run for run in self._runs if run.life is life]
        logger.error("the engine %s with %d images in flight", how, len(running))
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
            try:
                engine = await self._new_engine()
            except EngineError as error:
                logger.error("%s", error)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            self._life = Life(engine)
            logger.info("a new engine runs after %.0f s; %d images go on", time.monotonic() - start, len(self._runs))
            self._announce_change()
            return
        self._fail(EngineStoppedError(f"the engine ended, and {MAX_FAILED_STARTS} starts of a new one failed"))

    async def _new_engine(self) -> RestartableEngine:
        """Starts an engine with the current weights."""
        engine = await asyncio.to_thread(self._starter.start, self._start_timeout)
        if self._weights:
            try:
                await self._load_weights(engine, self._weights, self.weights_version, self._start_timeout)
            except BaseException:
                engine.shutdown()
                raise
        return engine

    async def _load_weights(self, engine: RestartableEngine, folder: Path, version: int, seconds: float) -> None:
        """Loads weights into an engine, which is not relied on to fail when it ends.

        If that fails or is cancelled, the engine is killed: its weights may be half old and half new.
        """
        loading = asyncio.create_task(engine.update_weights(folder, version))
        deadline = time.monotonic() + seconds
        try:
            while not loading.done():
                await asyncio.wait({loading}, timeout=POLL_SECONDS)
                if not loading.done() and (not engine.is_running or time.monotonic() > deadline):
                    raise EngineStoppedError("the engine ended while it loaded new weights")
            loading.result()
        except BaseException:
            loading.cancel()
            engine.kill()
            raise

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
