"""From a prompt or a class to pictures: text encoder, engine, decoder."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from llamagen_server.core import metrics
from llamagen_server.core.errors import EngineError, InvalidRequestError, OverloadedError
from llamagen_server.core.request import MAX_SEED, ImageRequest
from llamagen_server.engine.vllm_engine import Engine, EngineOutput, EngineRequest, Sampling
from llamagen_server.image_files.files import in_reader
from llamagen_server.model_dir import ModelDir
from llamagen_server.pipeline.condition import resolve_condition
from llamagen_server.pipeline.inpaint import Canvas, Edit
from llamagen_server.stages.image_tokenizer import ImageTokenizer
from llamagen_server.stages.text import TextStage

T = TypeVar("T")

MAX_IN_FLIGHT = 1024
"""Pictures that are accepted and not finished, at most."""


@dataclass(frozen=True)
class Picture:
    index: int
    """Which of the request's pictures."""
    codes: list[int]
    pixels: NDArray[np.uint8]
    """[height, width, 3]."""
    seed: int
    logprobs: list[float]
    """Of each sampled code, if asked for."""


@dataclass(frozen=True)
class Preview:
    """A picture that is not finished; what has no code yet is filled (`Pipeline.filled`)."""

    index: int
    number: int
    """0 for the first preview of this picture."""
    pixels: NDArray[np.uint8]


OnEvent = Callable[[Preview | Picture], None]


@dataclass
class Timings:
    """Milliseconds by stage; of several pictures, those of the slowest."""

    text_ms: float = 0.0
    engine_ms: float = 0.0
    decode_ms: float = 0.0
    file_ms: float = 0.0
    total_ms: float = 0.0


@dataclass(frozen=True)
class Result:
    pictures: list[Picture]
    condition_tokens: int
    timings: Timings = field(default_factory=Timings)


@dataclass(frozen=True)
class _Drawn:
    """A picture and the milliseconds it took."""

    picture: Picture
    engine_ms: float
    decode_ms: float


@dataclass(frozen=True)
class _Draw:
    """What the pictures of one request have in common."""

    request_id: str
    condition: int | Tensor
    sampling: Sampling
    logprobs: bool
    edit: Edit | None
    canvas: Canvas | None
    partial_images: int
    pixels: bool
    on_event: OnEvent | None
    start: float


class Pipeline:
    """All stages of one model."""

    def __init__(
        self,
        model: ModelDir,
        engine: Engine,
        tokenizer: ImageTokenizer,
        text: TextStage | None = None,
        max_in_flight: int = MAX_IN_FLIGHT,
    ) -> None:
        """``text`` turns captions into prompt embeddings; text models need it."""
        self.model = model
        self.engine = engine
        self.tokenizer = tokenizer
        self.max_in_flight = max_in_flight
        self.in_flight = 0
        """Pictures that are accepted and not finished."""
        self._text = text

    async def generate(
        self,
        request: ImageRequest,
        request_id: str,
        *,
        read_edit: Callable[[], Edit] | None = None,
        partial_images: int = 0,
        pixels: bool = True,
        on_event: OnEvent | None = None,
    ) -> Result:
        """Makes ``request.n`` pictures; picture j is drawn with seed ``seed + j``.

        Args:
            read_edit: reads an image that is to be edited; called off the event loop.
            partial_images: previews of each picture, at even steps.
            pixels: False leaves out the decoding; ``Picture.pixels`` are then empty.
            on_event: called with every preview and every finished picture.

        Raises:
            InvalidRequestError: the request does not fit the model.
            OverloadedError: too many pictures are in flight.
            EngineError: the engine failed.
        """
        with metrics.count_request(), self._admitted(request.n):
            start = time.perf_counter()
            sampling = self._sampling(request)
            condition = await self._condition(request)
            timings = Timings(text_ms=_since(start))
            edit = canvas = None
            if read_edit:
                edit = await in_reader(read_edit)
                canvas = edit.canvas(await self._encode(edit.pixels), self.model.config.grid_size)
            draw = _Draw(
                request_id, condition, sampling, request.logprobs, edit, canvas, partial_images, pixels, on_event, start
            )
            drawn = await together(self._picture(draw, j) for j in range(request.n))
            timings.engine_ms = max(d.engine_ms for d in drawn)
            timings.decode_ms = max(d.decode_ms for d in drawn)
            timings.total_ms = _since(start)
            tokens = 1 if isinstance(condition, int) else len(condition)
            return Result([d.picture for d in drawn], tokens, timings)

    @contextmanager
    def _admitted(self, pictures: int) -> Iterator[None]:
        if pictures > self.max_in_flight:
            raise InvalidRequestError(f"n is {pictures}, this server takes {self.max_in_flight} at a time", "n")
        if self.in_flight + pictures > self.max_in_flight:
            raise OverloadedError(f"{self.in_flight} pictures are in flight, at most {self.max_in_flight} are allowed")
        self._count(pictures)
        try:
            yield
        finally:
            self._count(-pictures)

    def _count(self, pictures: int) -> None:
        self.in_flight += pictures
        metrics.IN_FLIGHT.set(self.in_flight)

    async def _picture(self, draw: _Draw, j: int) -> _Drawn:
        seed = draw.sampling.seed + j
        start = time.perf_counter()
        with metrics.STAGE.labels("engine").time():
            image = await self._codes(draw, j, seed)
        engine_ms = _since(start)
        start = time.perf_counter()
        pixels = await self._pixels(draw, image.codes) if draw.pixels else np.zeros((0, 0, 3), np.uint8)
        decode_ms = _since(start)
        picture = Picture(j, image.codes, pixels, seed, image.logprobs)
        metrics.IMAGES.inc()
        if draw.on_event:
            draw.on_event(picture)
        return _Drawn(picture, engine_ms, decode_ms)

    async def _pixels(self, draw: _Draw, codes: Sequence[int]) -> NDArray[np.uint8]:
        pixels = await self._decode(codes)
        return await asyncio.to_thread(draw.edit.compose, pixels) if draw.edit else pixels

    async def _decode(self, codes: Sequence[int]) -> NDArray[np.uint8]:
        with metrics.STAGE.labels("decode").time():
            return await self.tokenizer.decode(codes)

    async def _codes(self, draw: _Draw, j: int, seed: int) -> EngineOutput:
        num_tokens = self.model.config.num_image_tokens
        canvas = draw.canvas or Canvas([0] * num_tokens, [True] * num_tokens)
        known = canvas.num_known
        image = EngineOutput(canvas.codes[:known], [])
        if known == num_tokens:
            return image
        # Of 2N even parts a preview comes after the 1st, the 3rd and so on: early, and evenly spaced.
        # The engine tells of a request's first code and then of as many as a part has.
        free, parts = num_tokens - known, 2 * draw.partial_images
        part = max(1, free // max(1, parts))
        ends = (free * odd / parts for odd in range(1, parts, 2))
        steps = sorted({known + 1 + part * round((end - 1) / part) for end in ends} - {known, num_tokens})
        request = EngineRequest(
            f"{draw.request_id}-{j}",
            draw.condition,
            replace(draw.sampling, seed=seed),
            known_codes=image.codes,
            forced_codes=canvas.forced() if draw.canvas else (),
            update_every=part if steps else None,
            logprobs=draw.logprobs,
        )
        sent = 0
        async for image in self.engine.generate(request):
            while sent < len(steps) and len(image.codes) >= steps[sent]:
                pixels = await self._pixels(draw, self.filled(image.codes[: steps[sent]], draw.canvas))
                if draw.on_event:
                    draw.on_event(Preview(j, sent, pixels))
                if j == sent == 0:
                    metrics.FIRST_PREVIEW.observe(time.perf_counter() - draw.start)
                sent += 1
        if len(image.codes) != num_tokens:
            raise EngineError(f"the engine returned {len(image.codes)} codes, expected {num_tokens}")
        return image

    async def decode(self, codes: Sequence[int]) -> NDArray[np.uint8]:
        """Codes of one image in raster order -> its pixels [side, side, 3].

        Raises:
            OverloadedError: too many pictures are in flight.
        """
        with self._admitted(1):
            return await self._decode(codes)

    async def encode(self, pixels: NDArray[np.uint8]) -> list[int]:
        """Pixels of one image [side, side, 3] -> its codes in raster order.

        Raises:
            OverloadedError: too many pictures are in flight.
        """
        with self._admitted(1):
            return await self._encode(pixels)

    async def _encode(self, pixels: NDArray[np.uint8]) -> list[int]:
        with metrics.STAGE.labels("encode").time():
            return await self.tokenizer.encode(pixels)

    def filled(self, codes: list[int], canvas: Canvas | None = None) -> list[int]:
        """All codes of a picture so far: one that is not known yet is the canvas's, else the one above it again."""
        if canvas:
            return codes + canvas.codes[len(codes) :]
        codes, side = list(codes), self.model.config.grid_size
        while len(codes) < self.model.config.num_image_tokens:
            codes.append(codes[-side] if len(codes) >= side else codes[-1])
        return codes

    def _sampling(self, request: ImageRequest) -> Sampling:
        defaults = self.model.defaults
        return Sampling(
            cfg_scale=_given(request.cfg_scale, defaults.cfg_scale),
            cfg_interval=request.cfg_interval,
            cfg_schedule=request.cfg_schedule,
            temperature=_given(request.temperature, defaults.temperature),
            top_k=_given(request.top_k, defaults.top_k),
            top_p=_given(request.top_p, defaults.top_p),
            seed=_given(request.seed, secrets.randbelow(MAX_SEED + 1)),
        )

    async def _condition(self, request: ImageRequest) -> int | Tensor:
        condition = resolve_condition(request, self.model)
        if isinstance(condition, int):
            return condition
        assert self._text is not None
        try:
            with metrics.STAGE.labels("text").time():
                return await self._text(condition)
        except ValueError as error:
            raise InvalidRequestError(str(error), "prompt") from None

    def shutdown(self) -> None:
        if self._text is not None:
            self._text.shutdown()
        self.tokenizer.shutdown()
        self.engine.shutdown()


async def together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all; if one fails or this is cancelled, the others are cancelled."""
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
