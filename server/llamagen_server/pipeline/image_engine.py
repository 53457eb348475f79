"""The public Python API: a model directory that generates images inside the calling program."""

from __future__ import annotations

import asyncio
import atexit
import threading
import uuid
from collections.abc import Coroutine, Iterable, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from pydantic import ValidationError

from llamagen_server.core.errors import InvalidRequestError, describe
from llamagen_server.core.options import NO_LIMITS
from llamagen_server.core.request import ImageRequest
from llamagen_server.core.results import GenerationResult
from llamagen_server.engine.arguments import default_flags
from llamagen_server.pipeline.build import build_pipeline, open_model
from llamagen_server.pipeline.condition import resolve_condition
from llamagen_server.pipeline.pipeline import Pipeline, together
from llamagen_server.rollout.group import RolloutGroup, RolloutRequest, group_of
from llamagen_server.rollout.weights import Weights

T = TypeVar("T")


class ImageEngine:
    """Generates images with one model, in the calling program.

    The engine runs in a process of its own, and the calling process stays as it was: threads, memory allocator and
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
            model: a model directory as ``llamagen convert`` makes it, or the name of an official model, which is
                downloaded and converted on first use (``llamagen models`` lists them); None is the embedded demo model.
            cfg_branches: 1 for an engine that never guides, at half the work per token; ``cfg_scale`` must then be 1.
            vq_dtype: dtype of decoding: "auto", "float32" or "bfloat16".
            engine_args: vLLM's engine arguments by their names in Python, such as ``max_num_seqs=64``,
                ``enforce_eager=True`` or ``tensor_parallel_size=2``.

        Raises:
            ValueError: the model or an argument is wrong.
            EngineError: the engine did not start.
        """
        opened, flags = open_model(model, cfg_branches), default_flags(**engine_args)

        async def build() -> Pipeline:
            return build_pipeline(opened, flags, limits=NO_LIMITS, vq_dtype=vq_dtype, own_process_group=True)

        self._closed = False
        self._submitting = threading.Lock()
        self._closing = threading.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        """Running calls; used in the engine's loop only."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="image-engine", daemon=True)
        self._thread.start()
        try:
            # In the engine's own loop, where vLLM's tasks belong: the caller may have a loop too.
            self._pipeline = self._wait(build())
        except Exception:
            self._stop_loop()
            raise
        atexit.register(self.close)

    def generate(self, request: ImageRequest | str, *, pixels: bool = True) -> GenerationResult:
        """Generates the images of one request.

        Args:
            request: a request, or just its prompt.
            pixels: False skips decoding; the result then has codes only.

        Raises:
            InvalidRequestError: the request does not fit the model.
            DeadlineError: the request has a timeout, and it is over.
            EngineError: the engine failed.
            RuntimeError: the engine is closed.
        """
        return self._wait(self._generate(request, pixels))

    def generate_batch(self, requests: Sequence[ImageRequest | str], *, pixels: bool = True) -> list[GenerationResult]:
        """Generates the images of many requests, as many at a time as the engine computes; keeps their order.

        Raises:
            InvalidRequestError: a request does not fit the model; found before any image is generated. Prompts that
                are too long are found on the way, and cancel the others.
            DeadlineError: a request's timeout is over; it starts when the engine has room for the request. The others
                are cancelled.
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

    def rollout(self, requests: Sequence[RolloutRequest], *, pixels: bool = False) -> list[RolloutGroup]:
        """Generates groups of samples with log-probabilities, as many at a time as the engine computes.

        Args:
            requests: one for each group.
            pixels: True decodes the samples too.

        Raises:
            InvalidRequestError, DeadlineError, EngineError, RuntimeError: as `generate_batch`.
        """
        return self._wait(self._rollout(requests, pixels))

    async def rollout_async(self, requests: Sequence[RolloutRequest], *, pixels: bool = False) -> list[RolloutGroup]:
        """As `rollout`, without blocking the event loop. Cancelling it stops the engine's work."""
        return await asyncio.wrap_future(self._submit(self._rollout(requests, pixels)))

    def update_weights(self, weights: Weights, version: int | None = None) -> int:
        """Replaces the weights of the language model in place. Calls that are running end first, later ones wait.

        Args:
            weights: all tensors by their official names (any floating dtype and device), or a safetensors file, which
                must not change until the next update: an engine that is restarted reads it again.
            version: the number that results carry from now on; by default one more than before.

        Returns:
            The version.

        Raises:
            ValueError: a tensor is missing, unexpected or of another shape; the weights stay as they were.
            EngineError: the engine failed.
            RuntimeError: the engine is closed.
        """
        return self._wait(self._pipeline.update_weights(weights, version))

    @property
    def weights_version(self) -> int:
        """Version of the weights; 0 are those of the model directory."""
        return self._pipeline.engine.weights_version

    def pause(self) -> None:
        """Waits until nothing is generated. Later calls wait for `resume`."""
        self._wait(self._pipeline.pause())

    def resume(self) -> None:
        """Ends a `pause`."""

        async def resume() -> None:
            self._pipeline.resume()

        self._wait(resume())

    def sleep(self) -> None:
        """Waits until nothing is generated, and frees the engine's memory on a GPU, for a trainer on the same device.

        Later calls wait for `wake_up`. Text encoder and image tokenizer stay on the GPU.

        Raises:
            InvalidRequestError: the engine cannot sleep: it needs a GPU and ``enable_sleep_mode=True``.
        """
        self._wait(self._pipeline.sleep())

    def wake_up(self) -> None:
        """Ends `sleep`."""
        self._wait(self._pipeline.wake_up())

    def close(self) -> None:
        """Stops the engine. May be called again; the end of the program calls it too.

        Calls of other threads that are still running raise RuntimeError.
        """
        with self._closing:  # a second caller waits for the first
            with self._submitting:
                if self._closed:
                    return
                self._closed = True
            try:
                asyncio.run_coroutine_threadsafe(self._shut_down(), self._loop).result()
            finally:
                self._stop_loop()
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
        checked = [_as_request(request) for request in requests]
        for request in checked:
            resolve_condition(request, self._pipeline.model)
        # Enough to keep the engine full while finished images are decoded; more would only hold prompt embeddings.
        places = asyncio.Semaphore(2 * self._pipeline.engine.max_num_seqs)

        async def one(request: ImageRequest) -> GenerationResult:
            async with places:
                return await self._generate(request, pixels)

        return await together(one(request) for request in checked)

    async def _rollout(self, requests: Sequence[RolloutRequest], pixels: bool) -> list[RolloutGroup]:
        results = await self._generate_batch(requests, pixels)
        return [group_of(request, result, pixels) for request, result in zip(requests, results, strict=True)]

    async def _run(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            return await work
        except asyncio.CancelledError:
            if self._closed:
                raise RuntimeError("the engine is closed") from None
            raise
        finally:
            self._tasks.discard(task)

    async def _shut_down(self) -> None:
        """Stops the engine while its loop is blocked, so that vLLM's tasks do not report the engine's end."""
        await self._cancel(self._tasks)
        self._pipeline.shutdown()

    async def _cancel(self, tasks: Iterable[asyncio.Task[Any]]) -> None:
        tasks = [task for task in tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        with self._submitting:
            if not self._closed:
                return asyncio.run_coroutine_threadsafe(self._run(work), self._loop)
        work.close()
        raise RuntimeError("the engine is closed")

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        future = self._submit(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # a Ctrl-C while waiting stops the engine's work too
            raise

    def _stop_loop(self) -> None:
        async def finish() -> None:  # vLLM's own tasks
            await self._cancel(asyncio.all_tasks())

        asyncio.run_coroutine_threadsafe(finish(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _as_request(request: ImageRequest | str) -> ImageRequest:
    if isinstance(request, ImageRequest):
        return request
    try:
        return ImageRequest(prompt=request)
    except ValidationError as error:
        raise InvalidRequestError(*describe(error.errors()[0])) from None
