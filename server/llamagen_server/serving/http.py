"""The life of an HTTP server: listen, load, serve, drain, stop."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import psutil
import uvicorn
from fastapi import FastAPI

from llamagen_server.api.app import ROUTES, create_app
from llamagen_server.api.middleware.api_key import Keyring
from llamagen_server.api.middleware.cors import Cors
from llamagen_server.api.routes import rollouts
from llamagen_server.core import metrics
from llamagen_server.core.options import RequestPolicy
from llamagen_server.engine.guidance_watch import GuidanceWatch, watch_guidance
from llamagen_server.pipeline.pipeline import Pipeline
from llamagen_server.serving.listener import Listener
from llamagen_server.serving.tls import Tls

logger = logging.getLogger(__name__)

DRAIN_SECONDS = 30
"""Default seconds that requests in flight have to finish after a stop signal."""


@dataclass(frozen=True)
class HttpOptions:
    """Everything about the server that does not concern its model."""

    keyring: Keyring = field(default_factory=Keyring)
    """If it has keys, each request must carry one of them. SIGHUP reads its files again."""
    drain_seconds: int = DRAIN_SECONDS
    """Time for requests in flight after a stop signal; those that take longer are cut off."""
    tls: Tls | None = None
    """None: plain HTTP."""
    cors: Cors = field(default_factory=Cors)
    """What pages of other origins may do."""
    policy: RequestPolicy = field(default_factory=RequestPolicy)
    """What is done for clients that cannot send what the server needs."""
    root_path: str = ""
    """Path prefix below which a proxy serves this server."""
    trusted_proxies: Sequence[str] = ()
    """Addresses whose X-Forwarded headers are believed."""
    rollouts: bool = False
    """Whether trainers may sample rollouts and replace the weights."""


def serve_http(names: Sequence[str], listener: Listener, load: Callable[[], Pipeline], options: HttpOptions) -> None:
    """Serves until SIGINT or SIGTERM; a second one cuts off what is in flight.

    Args:
        names: the model's public names; the first one is in replies and in the log.
        load: builds the pipeline; called in a thread while the server already answers 503.

    Raises:
        ValueError: ``load`` refuses the model or a flag.
        EngineStoppedError: the engine did not start, or ended for good.
    """
    if not options.keyring and not listener.is_loopback:
        logger.warning("no key is configured: whoever reaches this server can use it; --api-key-file sets keys")
    logging.getLogger("uvicorn.error").addFilter(_is_no_cut_off)
    app = create_app(
        names[0],
        api_keys=options.keyring,
        routes=(*ROUTES, rollouts) if options.rollouts else ROUTES,
        cors=options.cors,
        aliases=names[1:],
        policy=options.policy,
        root_path=options.root_path,
        trusted_proxies=options.trusted_proxies,
    )
    asyncio.run(_Service(names[0], listener, load, app, options).run())


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals to `_Service`: uvicorn would raise them again before the engine is stopped."""
        yield


def _is_no_cut_off(record: logging.LogRecord) -> bool:
    """False for uvicorn's traceback of a request that is cut off when the server stops."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


def _uvicorn_config(app: FastAPI, options: HttpOptions) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http="h11",  # bounds the request line and the headers at 64 KiB; httptools does not
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # api.middleware.forwarded reads them
        timeout_graceful_shutdown=options.drain_seconds,
        **(options.tls.uvicorn_options() if options.tls else {}),
    )


class _Service:
    def __init__(
        self, name: str, listener: Listener, load: Callable[[], Pipeline], app: FastAPI, options: HttpOptions
    ) -> None:
        self.name, self.listener, self.load, self.app = name, listener, load, app
        self.keyring, self.scheme = options.keyring, "https" if options.tls else "http"
        self.server = _Server(_uvicorn_config(app, options))
        self.guidance = GuidanceWatch()

    async def run(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._stop)
        if self.keyring.files:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self.keyring.reload)
        serving = asyncio.create_task(self.server.serve(sockets=self.listener.sockets))
        watching = asyncio.create_task(metrics.watch_event_loop())
        try:
            pipeline = await self._load(serving)
        except BaseException:
            self.server.should_exit = True
            await asyncio.wait({serving})
            raise
        counting = asyncio.create_task(watch_guidance(pipeline.engine, self.guidance))
        try:
            await self._watch(pipeline, serving)
        finally:
            self.server.should_exit = True
            await asyncio.wait({serving})
            watching.cancel()
            counting.cancel()
            pipeline.shutdown()
            logger.info("stopped")

    def _stop(self) -> None:
        if self.app.state.draining:
            self._cut_off()
        self.app.state.draining = True
        self.server.should_exit = True
        if pipeline := self.app.state.pipeline:
            pipeline.resume()  # nobody can end a pause any more

    def _cut_off(self) -> None:
        """Ends the requests in flight now, with status 503, in place of waiting for them."""
        if self.server.force_exit:
            return
        state = self.server.server_state
        logger.warning("stopping at once: %d requests in flight are cut off", len(state.tasks))
        self.server.force_exit = True
        for task in state.tasks:
            task.cancel()
        asyncio.get_running_loop().call_later(1, self._abort_connections)

    def _abort_connections(self) -> None:
        """Closes connections whose clients do not read their replies; the server would wait for them."""
        for connection in list(self.server.server_state.connections):
            connection.transport.abort()

    async def _load(self, serving: asyncio.Task[None]) -> Pipeline:
        """Loads, while the server answers 503."""
        start = time.perf_counter()
        load = asyncio.create_task(self._load_and_warm_up())
        await asyncio.wait({serving, load}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            self._abandon_loading()
        pipeline = self.app.state.pipeline = load.result()
        metrics.READY.set_function(self._is_ready)
        gc.collect()
        gc.freeze()  # what is loaded stays: looking through it again and again would hold up the event loop
        seconds = time.perf_counter() - start
        logger.info("%s is ready after %.0f s: %s", self.name, seconds, self.listener.link(self.scheme))
        return pipeline

    async def _load_and_warm_up(self) -> Pipeline:
        pipeline = await asyncio.to_thread(self.load)
        try:
            await pipeline.warm_up()
        except BaseException:
            pipeline.shutdown()
            raise
        await self.guidance.begin(pipeline.engine)  # what warmed it up is nobody's image
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
