"""The language-model engine: what the rest of the server needs of it, and vLLM behind that."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from llamagen_server.errors import EngineError

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.v1.engine.async_llm import AsyncLLM


@dataclass(frozen=True)
class Sampling:
    """How the codes of one image are drawn."""

    cfg_scale: float
    cfg_interval: int
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


class Engine(Protocol):
    def generate(self, request: EngineRequest) -> AsyncIterator[list[int]]:
        """Yields the codes of the finished image.

        Closing the iterator or cancelling the task that reads it stops the engine's work on the request.

        Raises:
            ValueError: the engine refuses the request.
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
        self._first_class_id = config.codebook_size
        self._num_image_tokens = config.num_image_tokens

    async def generate(self, request: EngineRequest) -> AsyncIterator[list[int]]:
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        outputs = self._llm.generate(
            self._prompt(request.condition), self._params(request.sampling), request.request_id
        )
        try:
            async for output in outputs:
                yield list(output.outputs[0].token_ids)
        except (EngineDeadError, EngineGenerateError) as error:
            raise EngineError("the engine stopped; see the server's log") from error

    async def check_health(self) -> None:
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            await self._llm.check_health()
        except EngineDeadError as error:
            raise EngineError("the engine stopped; see the server's log") from error

    def shutdown(self) -> None:
        self._llm.shutdown()

    def _prompt(self, condition: int | Tensor) -> Any:
        if isinstance(condition, int):
            return {"prompt_token_ids": [self._first_class_id + condition]}
        return {"prompt_embeds": condition}

    def _params(self, sampling: Sampling) -> SamplingParams:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            seed=sampling.seed,
            max_tokens=self._num_image_tokens,
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            extra_args={"cfg_scale": sampling.cfg_scale, "cfg_interval": sampling.cfg_interval},
        )
