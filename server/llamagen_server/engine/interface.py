"""The engine's interface: one request per image, codes that grow."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from llamagen_server.core.sampling import Sampling


@dataclass(frozen=True)
class EngineRequest:
    """One image."""

    request_id: str
    condition: int | Tensor
    """A class id, or the prompt embeddings of a caption, [tokens, branches * dim]."""
    sampling: Sampling
    prefix_tokens: Sequence[int] = ()
    """Codes of the first image tokens. They enter with the prompt; sampling starts behind them."""
    forced_tokens: Sequence[int] = ()
    """Code of each image token that the engine must take, -1 where it samples."""
    update_every: int | None = None
    """Codes between two outputs; None: only the finished image."""
    logprobs: bool = False


@dataclass
class EngineOutput:
    """The codes of an image so far."""

    codes: list[int]
    """In raster order, the prefix tokens included."""
    logprobs: list[float]
    """Log-probability of each sampled code in the guided distribution; empty if the request did not ask for it."""


class Engine(Protocol):
    def generate(self, request: EngineRequest) -> AsyncIterator[EngineOutput]:
        """Yields the image as it grows, and at last the finished one.

        Closing the iterator or cancelling the task that reads it stops the engine's work on the request.

        Raises:
            InvalidRequestError: the engine refuses the request.
            EngineError: the engine failed.
        """
        ...

    async def check_health(self) -> None:
        """Raises `EngineError` if the engine is not running."""
        ...

    def shutdown(self) -> None: ...
