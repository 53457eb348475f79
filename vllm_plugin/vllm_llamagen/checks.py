"""Checks at engine start: no engine may sample without guidance."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm_llamagen.vllm_compat import VllmConfig

_PROCESSORS = {
    (1, False): "vllm_llamagen.runner_v1:UnguidedV1",
    (1, True): "vllm_llamagen.runner_v2:UnguidedV2",
    (2, False): "vllm_llamagen.runner_v1:GuidanceV1",
    (2, True): "vllm_llamagen.runner_v2:GuidanceV2",
}


def logits_processor(cfg_branches: int, v2_model_runner: bool) -> str:
    """Returns the value for vLLM's ``logits_processors`` argument, "module:class"."""
    return _PROCESSORS[cfg_branches, v2_model_runner]


def check_engine(vllm_config: VllmConfig) -> None:
    """Refuses an engine that would sample without guidance.

    Raises:
        ValueError: the matching logits processor is not configured, log-probabilities would be computed before it, or
            a text model would run on the V2 model runner.
    """
    model_config = vllm_config.model_config
    if vllm_config.use_v2_model_runner and model_config.hf_config.condition == "text":
        # The V2 runner forgets which prompt positions are text when a request is resumed or has prefix tokens.
        raise ValueError("text models need vLLM's V1 model runner: set VLLM_USE_V2_MODEL_RUNNER=0")
    needed = logits_processor(model_config.hf_config.cfg_branches, vllm_config.use_v2_model_runner)
    configured = [
        p if isinstance(p, str) else f"{p.__module__}:{p.__qualname__}" for p in model_config.logits_processors or ()
    ]
    if needed not in configured:
        raise ValueError(f"LlamaGen needs its guidance in the sampler: start vLLM with --logits-processors {needed}")
    if not model_config.logprobs_mode.startswith("processed"):
        raise ValueError(
            f"logprobs_mode is {model_config.logprobs_mode}, which ignores guidance: "
            "start vLLM with --logprobs-mode processed_logprobs"
        )
