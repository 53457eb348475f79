"""The engine settings that every LlamaGen model needs, whoever starts the engine.

vLLM calls a hook of the model's architecture when it has assembled an engine's configuration, in the process that
starts the engine. So ``vllm serve DIR``, ``vllm.LLM(DIR)`` and ``llamagen serve`` need no flag for guidance.
"""

from __future__ import annotations

import logging
from functools import cache

from vllm_llamagen.checks import check_engine, logits_processor
from vllm_llamagen.guidance_counts import EXTENSION
from vllm_llamagen.vllm_compat import MODELS_CONFIG_MAP, VerifyAndUpdateConfig, VllmConfig, current_platform

logger = logging.getLogger(__name__)


class LlamaGenSettings(VerifyAndUpdateConfig):
    """The hook of LlamaGen's architecture."""

    @staticmethod
    def verify_and_update_config(vllm_config: VllmConfig) -> None:
        """Completes the configuration.

        Raises:
            ValueError: an engine with this configuration would return wrong images; the message names the flag.
        """
        model = vllm_config.model_config
        model.skip_tokenizer_init = True  # prompts are token ids or embeddings
        model.enable_prompt_embeds = model.hf_config.condition == "text"
        ours = logits_processor(model.hf_config.cfg_branches, vllm_config.use_v2_model_runner)
        # First, so that other processors see mixed logits.
        model.logits_processors = [ours, *(p for p in model.logits_processors or [] if p != ours)]
        if vllm_config.use_v2_model_runner and getattr(model.hf_config, "head_dtype", None) is None:
            model.hf_config.head_dtype = "float32"  # of mixed hidden states: a large scale would magnify rounding
        if model.logprobs_mode.startswith("raw"):
            model.logprobs_mode = "processed_logprobs"
        parallel = vllm_config.parallel_config
        parallel.worker_extension_cls = parallel.worker_extension_cls or EXTENSION
        if parallel.worker_extension_cls != EXTENSION:
            _log_missing_counts(parallel.worker_extension_cls)
        if current_platform.is_cpu() and not vllm_config.use_v2_model_runner:  # V1 cannot undo a seeded sample there
            vllm_config.scheduler_config.enable_chunked_prefill = False
            vllm_config.scheduler_config.verify_max_model_len(model.max_model_len)
        check_engine(vllm_config)


@cache
def _log_missing_counts(extension: str) -> None:
    """Logs it once, although vLLM calls the hook again and again."""
    logger.warning("--worker-extension-cls is %s: the metrics of guidance are not counted", extension)


def register_settings(architecture: str) -> None:
    """Makes vLLM call the hook for an architecture. May be called again."""
    MODELS_CONFIG_MAP[architecture] = LlamaGenSettings
