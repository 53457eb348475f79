"""The engine's interface: one request per image, whose codes arrive as they are sampled."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from torch import Tensor

from llamagen_server.core.sampling import Sampling
from vllm_llamagen.guidance_counts import GuidanceCounts


@dataclass(frozen=True)
class EngineRequest:
    """One image."""

    request_id: str
    condition: int | Tensor
    """A class id, or the prompt embeddings of a text model, [tokens, branches * dim]."""
    sampling: Sampling
    prefix_tokens: Sequence[int] = ()
    """Codes of the first image tokens. They enter with the prompt; sampling starts after them."""
    forced_tokens: Sequence[int] = ()
    """Code of each image token in raster order; -1 where the engine samples. Empty: it samples all."""
    update_every: int | None = None
    """Codes between two outputs; None: only the finished image."""
    logprobs: bool = False
    branch_logprobs: bool = False
    """Whether to return the log-probabilities of both branches; ``logprobs`` come with them."""
    priority: int = 0
    """Waiting images with a lower value start first; among equals the order is that of arrival."""
    trace_headers: Mapping[str, str] | None = None
    """Headers by which the engine continues the request's trace."""


@dataclass
class EngineOutput:
    """The codes of an image so far."""

    codes: list[int]
    """In raster order, the prefix tokens included."""
    logprobs: list[float]
    """As in `core.results.GeneratedImage`."""
    queue_seconds: float = 0.0
    """Time that the image waited in the engine's queue; 0 if the engine does not report it."""
    branch_logprobs: list[tuple[float, float]] = field(default_factory=list)
    """As in `core.results.GeneratedImage`: of the conditional and of the unconditional branch."""


class Engine(Protocol):
    max_num_seqs: int
    """Images that the engine computes at a time."""

    weights_version: int
    """Version of the weights: 0 are those that the engine was started with."""

    @property
    def is_running(self) -> bool:
        """False while the engine restarts, and after its end."""
        ...

    def generate(self, request: EngineRequest) -> AsyncGenerator[EngineOutput]:
        """Yields the codes sampled so far, and finally the complete image.

        Closing the generator or cancelling the task that reads it stops the engine's work on the request.

        Raises:
            InvalidRequestError: the engine refuses the request.
            EngineError: the engine failed on the request.
            EngineStoppedError: the engine ended.
        """
        ...

    async def check_health(self) -> None:
        """Raises `EngineStoppedError` if the engine ended for good."""
        ...

    async def guidance_counts(self) -> GuidanceCounts | None:
        """Returns the counts of the images that the engine has begun; None if it does not count them.

        Raises:
            EngineError: the engine is not running.
        """
        ...

    async def update_weights(self, folder: Path, version: int) -> None:
        """Replaces the weights in place, and forgets what was computed with the old ones. No request may be running.

        Args:
            folder: a folder with ``model.safetensors``, which stays until the next update: a new engine reads it again.

        Raises:
            EngineError: the engine failed.
        """
        ...

    async def sleep(self) -> None:
        """Frees the memory of the GPU: weights wait in the CPU's memory. No request may be running.

        Raises:
            InvalidRequestError: the engine cannot sleep.
            EngineError: the engine failed.
        """
        ...

    async def wake_up(self) -> None:
        """Ends `sleep`. Errors are those of `sleep`."""
        ...

    def shutdown(self) -> None:
        """Stops the engine. May be called again; requests then fail with `EngineStoppedError`."""
        ...
