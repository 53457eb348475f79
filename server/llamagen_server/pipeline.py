"""From a prompt or a class to pictures: text encoder, engine, decoder."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from llamagen_server.condition import resolve_condition
from llamagen_server.decoder import ImageDecoder
from llamagen_server.engine import Engine, EngineRequest, Sampling
from llamagen_server.errors import EngineError, InvalidRequestError
from llamagen_server.model_dir import ModelDir
from llamagen_server.request import MAX_SEED, ImageRequest

T = TypeVar("T")


@dataclass(frozen=True)
class Picture:
    codes: list[int]
    pixels: NDArray[np.uint8]
    """[height, width, 3]."""
    seed: int


@dataclass
class Timings:
    """Milliseconds from the start of a request, summed over stages that ran one after the other."""

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


class Pipeline:
    """All stages of one model."""

    def __init__(
        self,
        model: ModelDir,
        engine: Engine,
        decoder: ImageDecoder,
        encode_text: Callable[[str], Tensor] | None = None,
    ) -> None:
        """``encode_text`` turns a caption into prompt embeddings [tokens, streams * dim]; text models need it."""
        self.model = model
        self.engine = engine
        self.decoder = decoder
        self._encode_text = encode_text
        self._text_thread = ThreadPoolExecutor(1, thread_name_prefix="text")

    async def generate(self, request: ImageRequest, request_id: str) -> Result:
        """Makes ``request.n`` pictures; picture j is drawn with seed ``seed + j``.

        Raises:
            InvalidRequestError: the request does not fit the model.
            EngineError: the engine failed.
        """
        timings = Timings()
        start = time.perf_counter()
        sampling = self._sampling(request)
        condition = await self._condition(request)
        timings.text_ms = _since(start)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._picture(f"{request_id}-{j}", condition, sampling, j))
                    for j in range(request.n)
                ]
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        engine_ms = max(task.result()[1] for task in tasks)
        timings.engine_ms = engine_ms
        timings.total_ms = _since(start)
        timings.decode_ms = timings.total_ms - timings.text_ms - engine_ms
        tokens = 1 if isinstance(condition, int) else len(condition)
        return Result([task.result()[0] for task in tasks], tokens, timings)

    async def _picture(
        self, request_id: str, condition: int | Tensor, sampling: Sampling, j: int
    ) -> tuple[Picture, float]:
        start = time.perf_counter()
        sampling = replace(sampling, seed=sampling.seed + j)
        codes: list[int] = []
        async for known in self.engine.generate(EngineRequest(request_id, condition, sampling)):
            codes = known
        expected = self.model.config.num_image_tokens
        if len(codes) != expected:
            raise EngineError(f"the engine returned {len(codes)} codes, expected {expected}")
        engine_ms = _since(start)
        return Picture(codes, await self.decoder.decode(codes), sampling.seed), engine_ms

    def _sampling(self, request: ImageRequest) -> Sampling:
        defaults = self.model.defaults
        return Sampling(
            cfg_scale=_given(request.cfg_scale, defaults.cfg_scale),
            cfg_interval=request.cfg_interval,
            temperature=_given(request.temperature, defaults.temperature),
            top_k=_given(request.top_k, defaults.top_k),
            top_p=_given(request.top_p, defaults.top_p),
            seed=_given(request.seed, secrets.randbelow(MAX_SEED + 1)),
        )

    async def _condition(self, request: ImageRequest) -> int | Tensor:
        condition = resolve_condition(request, self.model)
        if isinstance(condition, int):
            return condition
        assert self._encode_text is not None
        try:
            return await asyncio.get_running_loop().run_in_executor(self._text_thread, self._encode_text, condition)
        except ValueError as error:
            raise InvalidRequestError(str(error), "prompt") from None

    def shutdown(self) -> None:
        self._text_thread.shutdown(wait=False, cancel_futures=True)
        self.decoder.shutdown()
        self.engine.shutdown()


def _since(start: float) -> float:
    return (time.perf_counter() - start) * 1000


def _given(value: T | None, default: T) -> T:
    return default if value is None else value
