"""vLLM engines in processes that this one starts, watches and kills: what `supervisor` needs."""

from __future__ import annotations

import copy
import logging
import math
import multiprocessing
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING

import psutil
from pydantic import ValidationError

from llamagen_server.core.errors import EngineStoppedError
from llamagen_server.engine.arguments import EnginePlan
from llamagen_server.engine.environment import engine_environment
from llamagen_server.engine.vllm_engine import VLLMEngine

if TYPE_CHECKING:
    from vllm_llamagen.vllm_compat import EngineClient

logger = logging.getLogger(__name__)

MIN_CPU_SECONDS = 0.1
"""CPU time between two polls above which the engine's processes compute."""
ENGINE_PROCESSES = ("EngineCore", "VLLM_DP_Coordinator")
"""vLLM's names for the processes that it starts here; its workers are their children."""


class OwnVLLMEngine(VLLMEngine):
    """An engine that this process has started: a `supervisor.RestartableEngine`."""

    def __init__(self, llm: EngineClient, processes: Collection[BaseProcess]) -> None:
        from vllm_llamagen.vllm_compat import current_platform

        super().__init__(llm)
        roots = [psutil.Process(process.pid) for process in processes]
        self._processes = [process for root in roots for process in (root, *root.children(recursive=True))]
        self._computes_here = current_platform.is_cpu()  # a process that waits for a GPU spins
        self._cpu_seconds = 0.0

    async def ping(self) -> None:
        await self._running().is_sleeping()  # vLLM asks each process of its core

    def is_computing(self) -> bool:
        if not self._computes_here:
            return False
        before, self._cpu_seconds = self._cpu_seconds, sum(map(_cpu_seconds, self._processes))
        return self._cpu_seconds - before > MIN_CPU_SECONDS

    def kill(self) -> None:
        for process in self._processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()


class VLLMStarter:
    """Starts engines with the same plan: a `supervisor.Starter`. The calling process stays as it was."""

    def __init__(self, plan: EnginePlan) -> None:
        self._plan = plan
        self._is_shut_down = threading.Event()

    def start(self, timeout: float = math.inf) -> OwnVLLMEngine:
        """Starts vLLM in new processes; takes 5 to 90 seconds.

        Raises:
            ValueError: vLLM refuses a flag.
            EngineStoppedError: the engine's process ended, and has logged the reason; it took longer than ``timeout``
                seconds; or `shutdown` was called.
        """
        from vllm_llamagen.vllm_compat import AsyncLLM

        with engine_environment(self._plan.environment):  # one engine starts at a time, so new processes are its own
            others = set(_engine_processes())
            try:
                with self._killing_if_late(timeout, others):
                    llm = AsyncLLM.from_engine_args(copy.deepcopy(self._plan.arguments))
            except ValidationError as error:
                raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
            except RuntimeError as error:
                reason = str(error).splitlines()[0]
                raise EngineStoppedError(f"the engine did not start ({reason}); see the log above") from None
            engine = OwnVLLMEngine(llm, _engine_processes(others))
        if self._is_shut_down.is_set():
            engine.shutdown()
            raise EngineStoppedError("the engine is shut down")
        return engine

    def shutdown(self) -> None:
        self._is_shut_down.set()

    @contextmanager
    def _killing_if_late(self, timeout: float, others: Collection[BaseProcess]) -> Iterator[None]:
        """Kills the processes of a start that takes too long or is no longer wanted. vLLM then raises."""
        done = threading.Event()
        deadline = time.monotonic() + timeout

        def watch() -> None:
            said = False
            while not done.wait(0.2):
                late = time.monotonic() > deadline
                if late and not said:
                    said = True
                    logger.error("the engine hung: it did not start within %.0f s", timeout)
                if late or self._is_shut_down.is_set():  # again and again: it may only now create them
                    for process in _engine_processes(others):
                        process.kill()

        watching = threading.Thread(target=watch, name="engine-start", daemon=True)
        watching.start()
        try:
            yield
        finally:
            done.set()
            watching.join()


def _engine_processes(others: Collection[BaseProcess] = ()) -> list[BaseProcess]:
    """Returns the processes of vLLM engines that this process has started, without ``others``."""
    children = multiprocessing.active_children()
    return [child for child in children if child.name.startswith(ENGINE_PROCESSES) and child not in others]


def _cpu_seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)
