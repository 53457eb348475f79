"""The pipeline of one model: from a prompt or a class to images."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from llamagen_server.core import metrics, telemetry
from llamagen_server.core.errors import EngineError, InvalidRequestError
from llamagen_server.core.options import Limits
from llamagen_server.core.request import MAX_RANDOM_SEED, MAX_SEED, ImageRequest
from llamagen_server.core.results import Accepted, GeneratedImage, GenerationResult, OnEvent, Pixels, Preview, Timings
from llamagen_server.core.sampling import Sampling
from llamagen_server.engine.interface import Engine, EngineOutput, EngineRequest
from llamagen_server.image_files.reading import run_in_reader_thread
from llamagen_server.model_dir import ModelDir
from llamagen_server.model_dir.tensor_files import read_tensors
from llamagen_server.pipeline.admission import Admission, Place
from llamagen_server.pipeline.condition import resolve_condition
from llamagen_server.pipeline.deadline import deadline
from llamagen_server.pipeline.gate import Gate
from llamagen_server.pipeline.inpaint import Inpainting, TokenMask
from llamagen_server.pipeline.previews import PreviewSchedule, fill
from llamagen_server.rollout.update import WeightUpdate
from llamagen_server.rollout.weights import WeightFolder, Weights
from llamagen_server.stages.image_tokenizer import ImageTokenizerStage
from llamagen_server.stages.text import TextStage
from vllm_llamagen.caption_projection import CaptionProjection
from vllm_llamagen.weights import CAPTION_PROJECTION

logger = logging.getLogger(__name__)

T = TypeVar("T")

PAUSE, SLEEP = "pause", "sleep"
"""Those who hold the gate closed during a pause, and while the engine sleeps."""


@dataclass(frozen=True)
class _Timed:
    """An image, and the milliseconds that it took."""

    image: GeneratedImage
    engine_ms: float
    decode_ms: float


@dataclass(frozen=True)
class _Job:
    """Everything that the images of one request share."""

    request_id: str
    client: str
    places: Sequence[Place]
    """One for each image."""
    condition: int | Tensor
    sampling: Sampling
    logprobs: bool
    branch_logprobs: bool
    inpainting: Inpainting | None
    token_mask: TokenMask | None
    partial_images: int
    pixels: bool
    on_event: OnEvent | None
    start: float


class Pipeline:
    """The stages and the engine of one model."""

    def __init__(
        self,
        model: ModelDir,
        engine: Engine,
        image_tokenizer: ImageTokenizerStage,
        text: TextStage | None = None,
        limits: Limits = Limits(),
    ) -> None:
        """``text`` turns prompts into prompt embeddings; text models need it."""
        self.model = model
        self.engine = engine
        self.image_tokenizer = image_tokenizer
        self.admission = Admission(limits, engine.max_num_seqs)
        self.text = text
        self.gate = Gate()
        """Requests pass it. While it is closed, nothing is generated."""
        self.weight_update = WeightUpdate(self.update_weights)
        self._changing = asyncio.Lock()
        """Held by one change of the engine at a time."""
        self._weights: WeightFolder | None = None

    async def generate(
        self,
        request: ImageRequest,
        request_id: str,
        *,
        client: str = "",
        read_inpainting: Callable[[], Inpainting | None] | None = None,
        partial_images: int = 0,
        pixels: bool = True,
        on_event: OnEvent | None = None,
    ) -> GenerationResult:
        """Generates ``request.n`` images; image j uses seed ``seed + j``.

        Args:
            client: name of the client; each gets its turn in every queue.
            read_inpainting: reads the image to edit and its mask, as `inpaint.read_inpainting` does; called off the
                event loop.
            partial_images: previews of each image, evenly spaced.
            pixels: False skips decoding; ``GeneratedImage.pixels`` is then empty.
            on_event: called once the request is valid and accepted, then with every preview and every finished image.

        Raises:
            InvalidRequestError: the request does not fit the model.
            OverloadedError: the server has too much work.
            DeadlineError: the request's timeout is over; the engine's work was cancelled.
            EngineError: the engine failed.
        """
        async with self._accept(request.n, request.timeout, client) as places:
            return await self._generate(
                request, request_id, places, client, read_inpainting, partial_images, pixels, on_event
            )

    async def generate_groups(
        self, requests: Sequence[ImageRequest], request_id: str, *, client: str = "", pixels: bool = True
    ) -> list[GenerationResult]:
        """Generates the images of several requests that are accepted together, or not at all.

        They have the timeout of the first. Errors are those of `generate`.
        """
        async with self._accept(sum(request.n for request in requests), requests[0].timeout, client) as places:
            waiting = iter(places)
            work = (
                self._generate(request, f"{request_id}-{i}", list(islice(waiting, request.n)), client, pixels=pixels)
                for i, request in enumerate(requests)
            )
            return await together(work)

    async def _generate(
        self,
        request: ImageRequest,
        request_id: str,
        places: Sequence[Place],
        client: str,
        read_inpainting: Callable[[], Inpainting | None] | None = None,
        partial_images: int = 0,
        pixels: bool = True,
        on_event: OnEvent | None = None,
    ) -> GenerationResult:
        start = time.perf_counter()
        telemetry.annotate(n=request.n)
        sampling = self._sampling(request)
        condition = await self._condition(request, client)
        timings = Timings(text_ms=_since(start))
        inpainting = await run_in_reader_thread(read_inpainting) if read_inpainting else None
        token_mask = None
        if inpainting:
            codes = await self._encode_image(inpainting.pixels, client)
            token_mask = inpainting.token_mask(codes, self.model.config.grid_size)
        job = _Job(
            request_id=request_id,
            client=client,
            places=places,
            condition=condition,
            sampling=sampling,
            logprobs=request.logprobs,
            branch_logprobs=request.branch_logprobs,
            inpainting=inpainting,
            token_mask=token_mask,
            partial_images=partial_images,
            pixels=pixels,
            on_event=on_event,
            start=start,
        )
        if on_event:
            on_event(Accepted())
        timed = await together(self._image(job, j) for j in range(request.n))
        timings.engine_ms = max(t.engine_ms for t in timed)
        timings.decode_ms = max(t.decode_ms for t in timed)
        timings.total_ms = _since(start)
        return GenerationResult(
            images=[t.image for t in timed],
            condition_tokens=1 if isinstance(condition, int) else len(condition),
            input_image_tokens=len(token_mask.codes) if token_mask else 0,
            timings=timings,
            sampling=sampling,
            weights_version=self.engine.weights_version,
        )

    async def warm_up(self) -> None:
        """Samples the first codes of two images with the model's defaults, one of them with log-probabilities.

        What an engine compiles when it samples for the first time, it compiles now.

        Raises:
            EngineError: the engine failed.
        """
        condition = await self.text("warm up") if self.text else 0
        sampling = self._sampling(ImageRequest())

        async def sample(logprobs: bool) -> None:
            request = EngineRequest(f"_warmup-{logprobs}", condition, sampling, update_every=1, logprobs=logprobs)
            async with aclosing(self.engine.generate(request)) as outputs:
                async for output in outputs:
                    if len(output.codes) > 1:
                        return

        await together(sample(logprobs) for logprobs in (False, True))

    async def decode_image(self, codes: Sequence[int], client: str = "") -> Pixels:
        """Codes of one image in raster order -> its pixels [side, side, 3].

        Raises:
            OverloadedError: too many images are in flight.
            DeadlineError: it took longer than the default timeout.
        """
        async with self._hold_place(client):
            return await self._decode_image(codes, client)

    async def encode_image(self, read: Callable[[], Pixels], client: str = "") -> list[int]:
        """Encodes one image into its codes in raster order.

        Args:
            read: reads the pixels of the image, [side, side, 3]; called off the event loop.

        Raises:
            OverloadedError: too many images are in flight.
            DeadlineError: it took longer than the default timeout.
        """
        async with self._hold_place(client):
            return await self._encode_image(await run_in_reader_thread(read), client)

    @property
    def is_paused(self) -> bool:
        return self.gate.is_held_by(PAUSE)

    async def pause(self) -> None:
        """Waits until nothing is generated; requests that arrive wait for `resume`."""
        await self.gate.close(PAUSE)

    def resume(self) -> None:
        """Ends a `pause`; nothing else if there is none."""
        self.gate.open(PAUSE)

    @property
    def is_sleeping(self) -> bool:
        return self.gate.is_held_by(SLEEP)

    async def sleep(self) -> None:
        """Waits until nothing is generated, and frees the engine's memory on a GPU. Requests wait for `wake_up`.

        Raises:
            InvalidRequestError: the engine cannot sleep.
            EngineError: the engine failed.
        """
        async with self._changing:
            if self.is_sleeping:
                return
            await self.gate.close(SLEEP)
            try:
                await self.engine.sleep()
            except BaseException:
                self.gate.open(SLEEP)
                raise

    async def wake_up(self) -> None:
        """Ends `sleep`; nothing else if the engine is awake. Errors are those of `sleep`."""
        async with self._changing:
            if self.is_sleeping:
                await self.engine.wake_up()
                self.gate.open(SLEEP)

    async def update_weights(self, weights: Weights, version: int | None = None) -> int:
        """Replaces the weights of the language model in place, when no request is running.

        Args:
            weights: all its tensors, or a file of them; those of a text model's caption projection among them.
            version: the number that results carry from now on; by default one more than before.

        Returns:
            The version.

        Raises:
            ValueError: the weights do not fit the model.
            InvalidRequestError: the engine sleeps.
            EngineError: the engine failed.
        """
        folder = await asyncio.to_thread(WeightFolder, weights, self.model.config)
        try:
            async with self._changing, self.gate.closed():
                if self.is_sleeping:
                    raise InvalidRequestError("the engine sleeps: wake it up before it gets new weights")
                version = self.engine.weights_version + 1 if version is None else version
                await self.engine.update_weights(folder.path, version)
                if self.text:
                    tensors = read_tensors(folder.path, CAPTION_PROJECTION)
                    self.text.replace_projection(CaptionProjection(self.model.config, tensors))
        except BaseException:
            folder.remove()
            raise
        if self._weights:
            self._weights.remove()
        self._weights = folder
        logger.info("new weights, version %d", version)
        return version

    def shutdown(self) -> None:
        """Stops the engine and the stages. Work in flight is lost."""
        if self.text is not None:
            self.text.shutdown()
        self.image_tokenizer.shutdown()
        self.engine.shutdown()
        if self._weights:
            self._weights.remove()

    @asynccontextmanager
    async def _accept(self, images: int, asked: float | None, client: str) -> AsyncIterator[list[Place]]:
        """Counts a request, holds a place for each of its images, and cancels its work at the deadline."""
        with metrics.count_request():
            timeout = self.admission.limits.timeout(asked)
            with self.admission.admit(images, client, timeout) as places:
                async with deadline(timeout), self.gate.passing():
                    yield places

    @asynccontextmanager
    async def _hold_place(self, client: str) -> AsyncIterator[None]:
        """Holds a place for a call of the image tokenizer, and cancels it at the deadline."""
        with self.admission.hold(1, client):
            async with deadline(self.admission.limits.timeout()):
                yield

    async def _image(self, job: _Job, j: int) -> _Timed:
        seed = (job.sampling.seed + j) % (MAX_SEED + 1)
        start, began = time.perf_counter(), time.time()
        with telemetry.stage("engine", image=j):
            output = await self._sample(job, j, seed)
            engine_ms = _since(start)
            generate = engine_ms / 1000 - output.queue_seconds
            telemetry.record_spans(began, queue=output.queue_seconds, generate=max(0.0, generate))
        start = time.perf_counter()
        pixels = await self._pixels(job, output.codes) if job.pixels else np.zeros((0, 0, 3), np.uint8)
        decode_ms = _since(start)
        conditional, unconditional = map(list, zip(*output.branch_logprobs)) if output.branch_logprobs else ([], [])
        image = GeneratedImage(j, output.codes, pixels, seed, output.logprobs, conditional, unconditional)
        metrics.IMAGES.inc()
        self.admission.finish(job.places[j])
        if job.on_event:
            job.on_event(image)
        return _Timed(image, engine_ms, decode_ms)

    async def _sample(self, job: _Job, j: int, seed: int) -> EngineOutput:
        """Samples the codes of one image in the engine, and reports previews on the way."""
        num_tokens = self.model.config.num_image_tokens
        token_mask = job.token_mask or TokenMask.all_masked(num_tokens)
        prefix = token_mask.prefix_tokens
        output = EngineOutput(list(prefix), [])
        if len(prefix) == num_tokens:
            return output
        schedule = PreviewSchedule.plan(num_tokens, len(prefix), job.partial_images)
        request = EngineRequest(
            f"{job.request_id}-{j}",
            job.condition,
            replace(job.sampling, seed=seed),
            prefix_tokens=prefix,
            forced_tokens=token_mask.forced_tokens() if job.token_mask else (),
            update_every=schedule.update_every,
            logprobs=job.logprobs,
            branch_logprobs=job.branch_logprobs,
            priority=job.places[j].round,
            trace_headers=telemetry.trace_headers(),
        )
        reported = 0
        async with aclosing(self.engine.generate(request)) as outputs:
            async for output in outputs:
                while reported < len(schedule.steps) and len(output.codes) >= schedule.steps[reported]:
                    await self._report_preview(job, j, reported, output.codes[: schedule.steps[reported]])
                    reported += 1
        if len(output.codes) != num_tokens:
            raise EngineError(f"the engine returned {len(output.codes)} codes, expected {num_tokens}")
        return output

    async def _report_preview(self, job: _Job, j: int, number: int, codes: list[int]) -> None:
        pixels = await self._pixels(job, fill(codes, self.model.config.grid_size, job.token_mask))
        if job.on_event:
            job.on_event(Preview(j, number, pixels))
        if j == number == 0:
            metrics.FIRST_PREVIEW.observe(time.perf_counter() - job.start)

    async def _pixels(self, job: _Job, codes: Sequence[int]) -> Pixels:
        pixels = await self._decode_image(codes, job.client)
        return await asyncio.to_thread(job.inpainting.compose, pixels) if job.inpainting else pixels

    async def _decode_image(self, codes: Sequence[int], client: str) -> Pixels:
        with telemetry.stage("decode"):
            return await self.image_tokenizer.decode_image(codes, client)

    async def _encode_image(self, pixels: Pixels, client: str) -> list[int]:
        with telemetry.stage("encode"):
            return await self.image_tokenizer.encode_image(pixels, client)

    def _sampling(self, request: ImageRequest) -> Sampling:
        defaults = asdict(self.model.defaults)
        values = {name: _given(getattr(request, name), default) for name, default in defaults.items()}
        return Sampling(**values, seed=_given(request.seed, secrets.randbelow(MAX_RANDOM_SEED + 1)))

    async def _condition(self, request: ImageRequest, client: str) -> int | Tensor:
        condition = resolve_condition(request, self.model)
        if isinstance(condition, int):
            return condition
        assert self.text is not None
        try:
            with telemetry.stage("text"):
                return await self.text(condition, client)
        except ValueError as error:
            raise InvalidRequestError(str(error), "prompt") from None


async def together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Awaits all coroutines and returns their results. If one fails or the caller is cancelled, all are cancelled."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(part) for part in work]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


def _since(start: float) -> float:
    return (time.perf_counter() - start) * 1000


def _given(value: T | None, default: T) -> T:
    return default if value is None else value
