"""The life of an HTTP server: listen, load, serve, drain, stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import psutil
import uvicorn
from fastapi import FastAPI

from llamagen_server.api.app import create_app
from llamagen_server.core import metrics
from llamagen_server.engine.guidance_watch import watch_guidance
from llamagen_server.pipeline.pipeline import Pipeline

logger = logging.getLogger(__name__)

DRAIN_SECONDS = 30
"""Default seconds that requests in flight have to finish after a stop signal."""


def listen(host: str, port: int) -> socket.socket:
    """Opens the listening socket, before the model is loaded: an address in use is reported immediately.

    Raises:
        ValueError: the port is out of range, or the address cannot be used.
    """
    if not 0 <= port <= 65535:
        raise ValueError(f"--port is {port}, must be 0 to 65535 (0 chooses a free one)")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (")[0]
        raise ValueError(f"cannot listen on {host}:{port}: {reason}") from None


def serve_http(
    name: str,
    listener: socket.socket,
    load: Callable[[], Pipeline],
    api_keys: Sequence[str] = (),
    drain_seconds: int = DRAIN_SECONDS,
) -> None:
    """Serves until SIGINT or SIGTERM.

    Args:
        name: the model's public name.
        load: builds the pipeline; called in a thread while the server already answers 503.
        api_keys: if there are any, each request must carry one of them.
        drain_seconds: time for requests in flight after a stop signal; those that take longer are cut off.

    Raises:
        ValueError: ``load`` refuses the model or a flag.
        EngineStoppedError: the engine did not start, or ended for good.
    """
    asyncio.run(_Service(name, listener, load, create_app(name, api_keys=api_keys), drain_seconds).run())


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals to `_Service`: uvicorn would raise them again before the engine is stopped."""
        yield


class _Service:
    def __init__(
        self, name: str, listener: socket.socket, load: Callable[[], Pipeline], app: FastAPI, drain_seconds: int
    ) -> None:
        self.name, self.listener, self.load, self.app = name, listener, load, app
        self.server = _Server(
            uvicorn.Config(
                app, lifespan="off", log_config=None, access_log=False, timeout_graceful_shutdown=drain_seconds
            )
        )

    async def run(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._stop, number)
        serving = asyncio.create_task(self.server.serve(sockets=[self.listener]))
        watching = asyncio.create_task(metrics.watch_event_loop())
        try:
            pipeline = await self._load(serving)
        except BaseException:
            self.server.should_exit = True
            await asyncio.wait({serving})
            raise
        counting = asyncio.create_task(watch_guidance(pipeline.engine))
        try:
            await self._watch(pipeline, serving)
        finally:
            self.server.should_exit = True
            await asyncio.wait({serving})
            watching.cancel()
            counting.cancel()
            pipeline.shutdown()
            logger.info("stopped")

    def _stop(self, number: int) -> None:
        self.app.state.draining = True
        self.server.handle_exit(number, None)

    async def _load(self, serving: asyncio.Task[None]) -> Pipeline:
        """Loads in a thread, so that the server answers 503 meanwhile."""
        start = time.perf_counter()
        load = asyncio.create_task(asyncio.to_thread(self.load))
        await asyncio.wait({serving, load}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            self._abandon_loading()
        pipeline = self.app.state.pipeline = load.result()
        metrics.READY.set_function(self._is_ready)
        host, port = self.listener.getsockname()[:2]
        logger.info("%s is ready after %.0f s: http://%s:%d", self.name, time.perf_counter() - start, host, port)
        return pipeline

    def _is_ready(self) -> bool:
        pipeline: Pipeline = self.app.state.pipeline
        return pipeline.engine.is_running and not self.app.state.draining

    def _abandon_loading(self) -> None:
        """Ends the process while it loads: a thread cannot be stopped, and there is nothing to finish.

        Processes that the thread still starts fail once this one is gone; their messages are silenced.
        """
        logger.info("stopped while loading")
        logging.shutdown()
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.kill()
        os._exit(0)

    async def _watch(self, pipeline: Pipeline, serving: asyncio.Task[None]) -> None:
        """Serves until stopped. An engine that has ended for good ends the server with an error."""
        while not serving.done():
            if not self.server.should_exit:
                await pipeline.engine.check_health()
            await asyncio.wait({serving}, timeout=1)
