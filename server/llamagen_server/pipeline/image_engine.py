"""The public Python API: a model directory that generates images inside the calling program."""

from __future__ import annotations

import asyncio
import atexit
import sys
import threading
import uuid
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from pydantic import ValidationError

from llamagen_server.core.errors import InvalidRequestError, describe
from llamagen_server.core.request import ImageRequest
from llamagen_server.core.results import GenerationResult
from llamagen_server.engine.arguments import default_flags
from llamagen_server.pipeline.build import build_pipeline, open_model
from llamagen_server.pipeline.pipeline import together

T = TypeVar("T")

MAX_CONCURRENT = 256
"""Requests of a batch that the engine holds at a time: more would only wait there, with their prompt embeddings."""


class ImageEngine:
    """Generates images with one model, in the calling program.

    The engine runs in a process of its own and the calling process stays as it was: threads, memory allocator and
    environment are untouched. Close the engine when it is no longer needed, or use it as a context manager::

        with ImageEngine("models/t2i-xl") as engine:
            result = engine.generate(ImageRequest(prompt="a red circle", n=2, seed=7))
            result.images[0].pixels  # [height, width, 3], uint8

    vLLM starts new processes, which import the calling script: keep its work under ``if __name__ == "__main__":``.
    Every method may be called from any thread; the ``_async`` ones from any event loop.
    """

    def __init__(
        self, model: str | Path | None = None, *, cfg_branches: int = 2, vq_dtype: str = "auto", **engine_args: Any
    ) -> None:
        """Starts the engine; takes 10 to 90 seconds.

        Args:
            model: a model directory as ``llamagen convert`` makes it; None is the embedded demo model.
            cfg_branches: 1 for an engine that never guides, at half the work per token; ``cfg_scale`` must then be 1.
            vq_dtype: dtype of decoding: "auto", "float32" or "bfloat16".
            engine_args: vLLM's engine arguments by their names in Python, such as ``max_num_seqs=64``,
                ``enforce_eager=True`` or ``tensor_parallel_size=2``.

        Raises:
            ValueError: the model directory or an argument is wrong.
            EngineError: the engine did not start.
        """
        self._pipeline = build_pipeline(
            open_model(model, cfg_branches), default_flags(**engine_args), max_in_flight=sys.maxsize, vq_dtype=vq_dtype
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="image-engine", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def generate(self, request: ImageRequest | str, *, pixels: bool = True) -> GenerationResult:
        """Generates the images of one request.

        Args:
            request: a request, or just its prompt.
            pixels: False skips decoding; the result then has codes only.

        Raises:
            InvalidRequestError: the request does not fit the model.
            EngineError: the engine failed.
            RuntimeError: the engine is closed.
        """
        return self._wait(self._generate(request, pixels))

    def generate_batch(self, requests: Sequence[ImageRequest | str], *, pixels: bool = True) -> list[GenerationResult]:
        """Generates the images of many requests at the engine's full throughput; returns results in their order.

        Raises:
            InvalidRequestError: a request does not fit the model; the others are cancelled.
            EngineError: the engine failed.
            RuntimeError: the engine is closed.
        """
        return self._wait(self._generate_batch(requests, pixels))

    async def generate_async(self, request: ImageRequest | str, *, pixels: bool = True) -> GenerationResult:
        """As `generate`, without blocking the event loop. Cancelling it stops the engine's work."""
        return await asyncio.wrap_future(self._submit(self._generate(request, pixels)))

    async def generate_batch_async(
        self, requests: Sequence[ImageRequest | str], *, pixels: bool = True
    ) -> list[GenerationResult]:
        """As `generate_batch`, without blocking the event loop. Cancelling it stops the engine's work."""
        return await asyncio.wrap_future(self._submit(self._generate_batch(requests, pixels)))

    def close(self) -> None:
        """Stops the engine. Images in flight are lost. May be called again; the end of the program calls it too."""
        if self._loop.is_closed():
            return
        self._wait(self._cancel_all())
        self._pipeline.shutdown()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        atexit.unregister(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    async def _generate(self, request: ImageRequest | str, pixels: bool) -> GenerationResult:
        return await self._pipeline.generate(_as_request(request), uuid.uuid4().hex, pixels=pixels)

    async def _generate_batch(self, requests: Sequence[ImageRequest | str], pixels: bool) -> list[GenerationResult]:
        places = asyncio.Semaphore(MAX_CONCURRENT)

        async def one(request: ImageRequest | str) -> GenerationResult:
            async with places:
                return await self._generate(request, pixels)

        return await together(one(request) for request in requests)

    async def _cancel_all(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        if self._loop.is_closed():
            work.close()
            raise RuntimeError("the engine is closed")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        future = self._submit(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # a Ctrl-C while waiting stops the engine's work too
            raise


def _as_request(request: ImageRequest | str) -> ImageRequest:
    if isinstance(request, ImageRequest):
        return request
    try:
        return ImageRequest(prompt=request)
    except ValidationError as error:
        raise InvalidRequestError(*describe(error.errors()[0])) from None
