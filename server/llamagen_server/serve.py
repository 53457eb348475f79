"""``llamagen serve``: the HTTP server."""

from __future__ import annotations

import argparse
import asyncio
import logging
import multiprocessing
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from llamagen_server import loading, vllm_args
from llamagen_server.api.app import create_app
from llamagen_server.model_dir import ModelDir
from llamagen_server.pipeline import Pipeline

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (default: %(default)s)")
    parser.add_argument("model_dir", metavar="MODEL", nargs="?", help="model directory; default: the demo model")
    parser.add_argument(
        "--guidance-streams",
        type=int,
        choices=(1, 2),
        default=2,
        help="1: a server that never guides, at half the work per token; cfg_scale must then be 1 (default: 2)",
    )
    vllm_args.add_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Serves until it is told to stop.

    Raises:
        ValueError: the model or a flag is wrong.
        RuntimeError: the engine did not start.
    """
    model = loading.open_model(args.model_dir or args.model, args.guidance_streams)
    asyncio.run(_serve(args, model))


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals to `_serve`: uvicorn would raise them again before the engine is stopped."""
        yield


async def _serve(args: argparse.Namespace, model: ModelDir) -> None:
    start = time.perf_counter()
    name = served_name(args, model)
    app = create_app(name)
    server = _Server(
        uvicorn.Config(
            app,
            args.host,
            args.port,
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=30,
        )
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, server.handle_exit, number, None)
    serving = asyncio.create_task(server.serve())
    logger.info("loading %s", model.path)
    loading_task = asyncio.create_task(asyncio.to_thread(loading.load_pipeline, model, args))
    pipeline: Pipeline | None = None
    try:
        await asyncio.wait({serving, loading_task}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            _stop_children()  # the engine's process; the loading thread then ends with an error of no interest
            await asyncio.wait({loading_task})
        else:
            pipeline = app.state.pipeline = loading_task.result()
            logger.info(
                "%s is ready after %.0f s: http://%s:%d", name, time.perf_counter() - start, args.host, args.port
            )
            await serving
    finally:
        server.should_exit = True
        await asyncio.wait({serving})
        if pipeline is not None:
            pipeline.shutdown()
        logger.info("stopped")


def served_name(args: argparse.Namespace, model: ModelDir) -> str:
    if args.served_model_name:
        return str(args.served_model_name[0])
    return "llamagen-demo" if model.path == loading.DEMO_MODEL else model.path.resolve().name


def _stop_children() -> None:
    for child in multiprocessing.active_children():
        child.terminate()
