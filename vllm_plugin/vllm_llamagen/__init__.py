"""LlamaGen for vLLM: the model, its classifier-free guidance and their registration."""

import multiprocessing
import os

OWN_PROCESS_GROUP = "LLAMAGEN_OWN_PROCESS_GROUP"
"""Environment variable: set to 1, the engine's processes leave the process group of the one that started them.

A Ctrl-C then reaches that process alone, which can let requests in flight finish before it stops the engine.
"""


def register() -> None:
    """Makes LlamaGen known to vLLM and transformers (entry point ``vllm.general_plugins``).

    vLLM calls this in every process it starts, so it is cheap and may be called again.
    """
    from transformers import AutoConfig
    from vllm import ModelRegistry

    from vllm_llamagen.config import LlamaGenConfig

    if os.environ.get(OWN_PROCESS_GROUP) == "1" and multiprocessing.parent_process() is not None:
        os.setpgrp()
    AutoConfig.register(LlamaGenConfig.model_type, LlamaGenConfig, exist_ok=True)
    if "LlamaGenForCausalLM" not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model("LlamaGenForCausalLM", "vllm_llamagen.model:LlamaGenForCausalLM")
