"""``llamagen serve``: the HTTP server."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil
import uvicorn

from llamagen_server.api.app import create_app
from llamagen_server.core import metrics
from llamagen_server.engine import arguments as vllm_args
from llamagen_server.model_dir import ModelDir
from llamagen_server.pipeline import build as loading
from llamagen_server.pipeline.pipeline import MAX_IN_FLIGHT, Pipeline
from vllm_llamagen import OWN_PROCESS_GROUP

logger = logging.getLogger(__name__)

DRAIN_SECONDS = 30
"""How long requests in flight may go on after the server was told to stop."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (default: %(default)s)")
    parser.add_argument("model_dir", metavar="MODEL", nargs="?", help="model directory; default: the demo model")
    parser.add_argument(
        "--api-key",
        action="append",
        default=[],
        metavar="KEY",
        help="requests must carry this key; may be given several times; also read from LLAMAGEN_API_KEY",
    )
    parser.add_argument(
        "--max-in-flight",
        type=int,
        default=MAX_IN_FLIGHT,
        help="pictures accepted and not finished; more are answered 429 (default: %(default)s)",
    )
    parser.add_argument(
        "--guidance-streams",
        type=int,
        choices=(1, 2),
        default=2,
        help="1: a server that never guides, at half the work per token; cfg_scale must then be 1 (default: 2)",
    )
    parser.add_argument(
        "--vq-dtype",
        choices=loading.VQ_DTYPES,
        default="auto",
        help="dtype in which pixels are decoded; auto: that of the image tokenizer's config (float32 for the official "
        "ones) on a CPU with units for it, else float32",
    )
    vllm_args.add_arguments(parser)
    parser.set_defaults(shutdown_timeout=DRAIN_SECONDS)


def run(args: argparse.Namespace) -> None:
    """Serves until it is told to stop.

    Raises:
        ValueError: the model, a flag or the address is wrong.
        EngineError: the engine did not start, or ended while serving.
    """
    os.environ.setdefault(OWN_PROCESS_GROUP, "1")
    if args.max_in_flight < 1:
        raise ValueError(f"--max-in-flight is {args.max_in_flight}, must be at least 1")
    model = loading.open_model(args.model_dir or args.model, args.guidance_streams)
    with listen(args.host, args.port) as listener:
        asyncio.run(_Service(args, model, listener).run())


def listen(host: str, port: int) -> socket.socket:
    """Takes the address before the model is loaded: that it is in use should not be news after a minute."""
    if not 0 <= port <= 65535:
        raise ValueError(f"--port is {port}, must be 0 to 65535 (0 takes a free one)")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (")[0]
        raise ValueError(f"cannot listen on {host}:{port}: {reason}") from None


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals to `_Service`: uvicorn would raise them again before the engine is stopped."""
        yield


class _Service:
    """The life of a server: listen, load, serve, drain, stop."""

    def __init__(self, args: argparse.Namespace, model: ModelDir, listener: socket.socket) -> None:
        self.args, self.model, self.listener = args, model, listener
        self.name = served_name(args, model)
        self.app = create_app(self.name, api_keys=api_keys(args))
        self.server = _Server(
            uvicorn.Config(
                self.app, lifespan="off", log_config=None, access_log=False, timeout_graceful_shutdown=DRAIN_SECONDS
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
        try:
            await self._watch(pipeline, serving)
        finally:
            self.server.should_exit = True
            await asyncio.wait({serving})
            watching.cancel()
            pipeline.shutdown()
            logger.info("stopped")

    def _stop(self, number: int) -> None:
        self.app.state.draining = True
        self.server.handle_exit(number, None)

    async def _load(self, serving: asyncio.Task[None]) -> Pipeline:
        """Loads in a thread, so that the server answers 503 meanwhile."""
        start = time.perf_counter()
        logger.info("loading %s", self.model.path)
        load = asyncio.create_task(
            asyncio.to_thread(loading.load_pipeline, self.model, self.args, self.args.max_in_flight, self.args.vq_dtype)
        )
        await asyncio.wait({serving, load}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            self._abandon_loading()
        pipeline = self.app.state.pipeline = load.result()
        host, port = self.listener.getsockname()[:2]
        logger.info("%s is ready after %.0f s: http://%s:%d", self.name, time.perf_counter() - start, host, port)
        return pipeline

    def _abandon_loading(self) -> None:
        """Told to stop while loading: nothing is worth waiting for, and a thread cannot be stopped.

        A process that the thread starts from here on fails as soon as this one is gone, and nobody has to read of it.
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
        """Serves until told to stop; a server whose engine is gone ends too, so that it is started again."""
        while not serving.done():
            await asyncio.wait({serving}, timeout=1)
            if not self.server.should_exit:
                await pipeline.engine.check_health()


def api_keys(args: argparse.Namespace) -> list[str]:
    """The keys of the command line and of the environment.

    Raises:
        ValueError: a key is empty or holds what no header can.
    """
    keys = [*args.api_key, *filter(None, [os.environ.get("LLAMAGEN_API_KEY")])]
    if any(not key.isascii() or not key.isprintable() or not key.strip() or " " in key for key in keys):
        raise ValueError("--api-key must be printable ASCII without spaces, and not empty")
    return keys


def served_name(args: argparse.Namespace, model: ModelDir) -> str:
    if args.served_model_name:
        return str(args.served_model_name[0])
    return "llamagen-demo" if model.path == loading.DEMO_MODEL else model.path.resolve().name
