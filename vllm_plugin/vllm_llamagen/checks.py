"""Checks at engine start: no engine may sample without guidance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm_llamagen.guidance import default_guidance

if TYPE_CHECKING:
    from vllm_llamagen.config import LlamaGenConfig
    from vllm_llamagen.vllm_compat import VllmConfig

_PROCESSORS = {
    (1, False): "vllm_llamagen.runner_v1:UnguidedV1",
    (1, True): "vllm_llamagen.admission:UnguidedAdmissionV2",
    (2, False): "vllm_llamagen.runner_v1:GuidanceV1",
    (2, True): "vllm_llamagen.admission:AdmissionV2",
}


WINDOW_METHOD = "ngram_gpu"
"""The method of vLLM's speculative decoding that `decode_window` takes over."""


def window_config(window: int) -> dict[str, Any]:
    """Returns vLLM's ``speculative_config`` argument for ``window`` guessed tokens in a step."""
    return {
        "method": WINDOW_METHOD,
        "num_speculative_tokens": window,
        "prompt_lookup_min": 1,
        "prompt_lookup_max": 1,
    }


def logits_processor(cfg_branches: int, v2_model_runner: bool) -> str:
    """Returns the value for vLLM's ``logits_processors`` argument, "module:class"."""
    return _PROCESSORS[cfg_branches, v2_model_runner]


def check_tensor_parallel(config: LlamaGenConfig, workers: int) -> None:
    """Refuses a number of tensor-parallel workers among which the heads cannot be shared out equally.

    Raises:
        ValueError: the number is not a divisor of the number of KV heads.
    """
    if config.n_kv_head % workers:
        divisors = [str(n) for n in range(1, config.n_kv_head + 1) if config.n_kv_head % n == 0]
        raise ValueError(
            f"--tensor-parallel-size is {workers}, must be one of {', '.join(divisors)}: "
            f"each worker gets the same share of the model's {config.n_kv_head} KV heads"
        )


def check_engine(vllm_config: VllmConfig) -> None:
    """Refuses an engine that would sample without guidance, or whose workers cannot share the heads.

    Raises:
        ValueError: the matching logits processor is not configured, log-probabilities would be computed before it,
            speculative decoding is not that of `decode_window`, or as `check_tensor_parallel` and `default_guidance`.
    """
    model_config = vllm_config.model_config
    default_guidance(vllm_config)
    check_tensor_parallel(model_config.hf_config, vllm_config.parallel_config.tensor_parallel_size)
    needed = logits_processor(model_config.hf_config.cfg_branches, vllm_config.use_v2_model_runner)
    configured = [
        p if isinstance(p, str) else f"{p.__module__}:{p.__qualname__}" for p in model_config.logits_processors or ()
    ]
    if needed not in configured:
        raise ValueError(f"LlamaGen needs its guidance in the sampler: start vLLM with --logits-processors {needed}")
    if speculative := vllm_config.speculative_config:
        if speculative.method != WINDOW_METHOD:
            raise ValueError(
                f"--speculative-config has the method {speculative.method}, must be {WINDOW_METHOD} (a decode window): "
                "with others, images do not follow from their seeds"
            )
        if not vllm_config.use_v2_model_runner:
            raise ValueError("a decode window needs vLLM's V2 model runner, which runs on GPUs: leave it out here")
    if not model_config.logprobs_mode.startswith("processed"):
        raise ValueError(
            f"logprobs_mode is {model_config.logprobs_mode}, which ignores guidance: "
            "start vLLM with --logprobs-mode processed_logprobs"
        )
