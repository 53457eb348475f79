"""The language-model engine: what the rest of the server needs of it, and vLLM behind that."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from llamagen_server.core.errors import EngineError, InvalidRequestError

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.v1.engine.async_llm import AsyncLLM

logger = logging.getLogger(__name__)

STOPPED = "the engine stopped; see the server's log"


@dataclass(frozen=True)
class Sampling:
    """How the codes of one image are drawn."""

    cfg_scale: float
    cfg_interval: int
    cfg_schedule: str
    temperature: float
    top_k: int
    top_p: float
    seed: int


@dataclass(frozen=True)
class EngineRequest:
    """One image. The condition is a class id or the prompt embeddings of a caption, [tokens, streams * dim]."""

    request_id: str
    condition: int | Tensor
    sampling: Sampling
    known_codes: Sequence[int] = ()
    """Codes at the start of the image that are given, not sampled."""
    forced_codes: Sequence[int] = ()
    """Codes by image token that the engine must take, -1 where it is free."""
    update_every: int | None = None
    """Codes between two updates; None: only the finished image."""
    logprobs: bool = False


@dataclass
class EngineOutput:
    """The codes of an image so far, the known ones included."""

    codes: list[int]
    logprobs: list[float]
    """Log-probability of each sampled code in the distribution it was drawn from, if asked for."""


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


class VLLMEngine:
    """vLLM's AsyncLLM, one request per image."""

    def __init__(self, llm: AsyncLLM) -> None:
        self._llm = llm
        config = llm.model_config.hf_config
        self._first_condition_id = config.codebook_size
        self._num_image_tokens = config.num_image_tokens

    async def generate(self, request: EngineRequest) -> AsyncIterator[EngineOutput]:
        from vllm.exceptions import VLLMClientError
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        image = EngineOutput(list(request.known_codes), [])
        try:
            async for output in self._llm.generate(self._prompt(request), self._params(request), request.request_id):
                [new] = output.outputs
                image.codes += new.token_ids
                if new.logprobs:
                    image.logprobs += [p[code].logprob for p, code in zip(new.logprobs, new.token_ids, strict=True)]
                yield image
        except VLLMClientError as error:
            raise InvalidRequestError(str(error), getattr(error, "parameter", None)) from None
        except EngineDeadError as error:
            raise EngineError(STOPPED) from error
        except EngineGenerateError as error:
            logger.error("the engine failed on request %s", request.request_id, exc_info=error.__cause__)
            raise EngineError("the engine failed on this request; see the server's log") from None

    async def check_health(self) -> None:
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            await self._llm.check_health()
        except EngineDeadError as error:
            raise EngineError(STOPPED) from error

    def shutdown(self) -> None:
        self._llm.shutdown()

    def _prompt(self, request: EngineRequest) -> Any:
        known = list(request.known_codes)
        if isinstance(request.condition, int):
            return {"prompt_token_ids": [self._first_condition_id + request.condition, *known]}
        rows = request.condition
        if not known:
            return {"prompt_embeds": rows}
        return {
            "prompt_embeds": torch.cat([rows, rows.new_zeros(len(known), rows.shape[1])]),
            "prompt_token_ids": [self._first_condition_id] * len(rows) + known,
            "prompt_is_token_ids": [False] * len(rows) + [True] * len(known),
        }

    def _params(self, request: EngineRequest) -> SamplingParams:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        sampling = request.sampling
        guidance = {
            "cfg_scale": sampling.cfg_scale,
            "cfg_interval": sampling.cfg_interval,
            "cfg_schedule": sampling.cfg_schedule,
            "first_token": len(request.known_codes),
        }
        if request.forced_codes:
            guidance["forced_codes"] = list(request.forced_codes)
        return SamplingParams(
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            seed=sampling.seed,
            max_tokens=self._num_image_tokens - len(request.known_codes),
            ignore_eos=True,
            detokenize=False,
            logprobs=0 if request.logprobs else None,
            output_kind=RequestOutputKind.DELTA if request.update_every else RequestOutputKind.FINAL_ONLY,
            stream_interval=request.update_every,
            extra_args=guidance,
        )
