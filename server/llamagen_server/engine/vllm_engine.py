"""vLLM behind the engine's interface: starting it, and one vLLM request per image."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from llamagen_server.core.errors import EngineError, EngineStoppedError, InvalidRequestError
from llamagen_server.engine.arguments import EnginePlan
from llamagen_server.engine.environment import engine_environment
from llamagen_server.engine.interface import EngineOutput, EngineRequest
from vllm_llamagen.branch_logprobs import CONDITIONAL, NUM_LOGPROBS, UNCONDITIONAL
from vllm_llamagen.guidance_counts import EXTENSION, GuidanceCounts

if TYPE_CHECKING:
    from vllm import LLM, RequestOutput, SamplingParams

    from vllm_llamagen.vllm_compat import EngineClient, Logprob

logger = logging.getLogger(__name__)

STOPPED = "the engine stopped; see the server's log"


def start_offline_engine(plan: EnginePlan, in_process: bool = False) -> LLM:
    """Starts vLLM's ``LLM``, for batches that are known from the start (benchmarks and tests).

    ``in_process`` runs the engine in the calling process, where a profiler or a test can reach it.
    """
    from vllm import LLM

    only_asynchronous = ("enable_log_requests",)
    arguments = {name: value for name, value in vars(plan.arguments).items() if name not in only_asynchronous}
    placement = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"} if in_process else {}
    with engine_environment(plan.environment | placement):
        return LLM(**arguments)


class VLLMEngine:
    """vLLM's AsyncLLM, one request per image."""

    def __init__(self, llm: EngineClient) -> None:
        self._llm: EngineClient | None = llm
        config = llm.vllm_config
        self.resumes_from_prefix = config.use_v2_model_runner
        """Whether noise depends on seed and position alone (V2), and not on the draws before it (V1)."""
        self.max_num_seqs = config.scheduler_config.max_num_seqs * config.parallel_config.data_parallel_size
        config = llm.model_config.hf_config
        self.weights_version = 0
        self._first_condition_id = config.codebook_size
        self._num_image_tokens = config.num_image_tokens

    async def generate(self, request: EngineRequest) -> AsyncGenerator[EngineOutput]:
        from vllm_llamagen.vllm_compat import EngineDeadError, EngineGenerateError, VLLMClientError

        image = EngineOutput(list(request.prefix_tokens), [])
        try:
            outputs = self._running().generate(
                self._prompt(request),
                self._params(request),
                request.request_id,
                trace_headers=request.trace_headers,
                priority=request.priority,  # counts with --scheduling-policy priority only; vLLM ignores it otherwise
            )
            async with aclosing(outputs):
                async for output in outputs:
                    [new] = output.outputs
                    image.queue_seconds = _queue_seconds(output)
                    image.codes += new.token_ids
                    if new.logprobs:
                        image.logprobs += [p[code].logprob for p, code in zip(new.logprobs, new.token_ids, strict=True)]
                    if request.branch_logprobs:
                        image.branch_logprobs += [_branch_logprobs(p) for p in new.logprobs]
                    yield image
        except VLLMClientError as error:
            raise InvalidRequestError(str(error), getattr(error, "parameter", None)) from None
        except EngineDeadError as error:
            raise EngineStoppedError(STOPPED) from error
        except EngineGenerateError as error:
            if not self.is_running:  # vLLM's own part in this process failed, and with it every request
                raise EngineStoppedError(STOPPED) from error
            logger.error("the engine failed on request %s", request.request_id, exc_info=error.__cause__)
            raise EngineError("the engine failed on this request; see the server's log") from None

    @property
    def is_running(self) -> bool:
        return self._llm is not None and not self._llm.errored

    async def check_health(self) -> None:
        from vllm_llamagen.vllm_compat import EngineDeadError

        try:
            await self._running().check_health()
        except EngineDeadError as error:
            raise EngineStoppedError(STOPPED) from error

    async def guidance_counts(self) -> GuidanceCounts | None:
        """Returns the worker's counts. Data-parallel engines all answer, but vLLM returns only the first one's."""
        from vllm_llamagen.vllm_compat import EngineDeadError

        llm = self._running()
        if llm.vllm_config.parallel_config.worker_extension_cls != EXTENSION:
            return None
        try:
            first, *_ = await llm.collective_rpc("guidance_counts")
        except EngineDeadError as error:
            raise EngineStoppedError(STOPPED) from error
        return GuidanceCounts(**first)  # tensor-parallel workers all sample every image

    async def update_weights(self, folder: Path, version: int) -> None:
        from vllm_llamagen.vllm_compat import EngineDeadError

        llm = self._running()
        try:
            await llm.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
            if not await llm.reset_prefix_cache():
                raise RuntimeError("requests are running")
        except EngineDeadError as error:
            raise EngineStoppedError(STOPPED) from error
        except Exception as error:  # of the worker, whose weights are half old and half new
            raise EngineError(f"the engine could not load new weights: {error}") from None
        self.weights_version = version

    async def sleep(self) -> None:
        await self._sleeper().sleep(level=1)  # 2 would drop the weights

    async def wake_up(self) -> None:
        await self._sleeper().wake_up()

    def _sleeper(self) -> EngineClient:
        llm = self._running()
        if not llm.model_config.enable_sleep_mode:
            raise InvalidRequestError("this engine cannot sleep: that needs a GPU and --enable-sleep-mode")
        return llm

    def shutdown(self) -> None:
        # The reference goes too: vLLM's destructor fails when the interpreter is already taking its modules apart.
        llm, self._llm = self._llm, None
        if llm is not None:
            llm.shutdown()

    def _running(self) -> EngineClient:
        if self._llm is None:
            raise EngineStoppedError(STOPPED)
        return self._llm

    def _prompt(self, request: EngineRequest) -> Any:
        prefix = list(request.prefix_tokens)
        if isinstance(request.condition, int):
            return {"prompt_token_ids": [self._first_condition_id + request.condition, *prefix]}
        embeds = request.condition
        if not prefix:
            return {"prompt_embeds": embeds}
        return {
            "prompt_embeds": torch.cat([embeds, embeds.new_zeros(len(prefix), embeds.shape[1])]),
            "prompt_token_ids": [self._first_condition_id] * len(embeds) + prefix,
            "prompt_is_token_ids": [False] * len(embeds) + [True] * len(prefix),
        }

    def _params(self, request: EngineRequest) -> SamplingParams:
        from vllm import SamplingParams

        from vllm_llamagen.vllm_compat import RequestOutputKind

        sampling = request.sampling
        guidance = {
            "cfg_scale": sampling.cfg_scale,
            "cfg_interval": sampling.cfg_interval,
            "cfg_schedule": sampling.cfg_schedule,
            "cfg_min_p": sampling.cfg_min_p,
            "start_index": len(request.prefix_tokens),
            "branch_logprobs": request.branch_logprobs,
        }
        if request.forced_tokens:
            guidance["forced_tokens"] = list(request.forced_tokens)
        return SamplingParams(
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            seed=sampling.seed,
            max_tokens=self._num_image_tokens - len(request.prefix_tokens),
            ignore_eos=True,
            detokenize=False,
            logprobs=NUM_LOGPROBS if request.branch_logprobs else 0 if request.logprobs else None,
            output_kind=RequestOutputKind.DELTA if request.update_every else RequestOutputKind.FINAL_ONLY,
            stream_interval=request.update_every,
            extra_args=guidance,
        )


def _branch_logprobs(logprobs: Mapping[int, Logprob]) -> tuple[float, float]:
    try:
        return logprobs[CONDITIONAL].logprob, logprobs[UNCONDITIONAL].logprob
    except KeyError:
        raise EngineError(
            "this engine returns no log-probabilities of the branches: that needs llamagen serve, or a GPU"
        ) from None


def _queue_seconds(output: RequestOutput) -> float:
    """Returns 0 if vLLM keeps no statistics (``--disable-log-stats``)."""
    times = output.metrics
    return times.scheduled_ts - times.queued_ts if times and times.scheduled_ts else 0.0
