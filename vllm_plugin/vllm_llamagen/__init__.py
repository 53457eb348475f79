"""LlamaGen for vLLM: the model, its classifier-free guidance and their registration."""

import multiprocessing
import os
import threading
from functools import cache

OWN_PROCESS_GROUP = "LLAMAGEN_OWN_PROCESS_GROUP"
"""Environment variable: set to 1, the engine's processes leave the process group of the one that started them.

A Ctrl-C then reaches that process alone, which can let requests in flight finish before it stops the engine. As nothing
else reaches them either, they end by themselves when their parent is gone, however it went.
"""


def register() -> None:
    """Makes LlamaGen known to vLLM and transformers (entry point ``vllm.general_plugins``).

    vLLM calls this in every process it starts, so it is cheap and may be called again.
    """
    from transformers import AutoConfig
    from vllm import ModelRegistry

    from vllm_llamagen.config import LlamaGenConfig

    if os.environ.get(OWN_PROCESS_GROUP) == "1":
        _leave_process_group()
    AutoConfig.register(LlamaGenConfig.model_type, LlamaGenConfig, exist_ok=True)
    if "LlamaGenForCausalLM" not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model("LlamaGenForCausalLM", "vllm_llamagen.model:LlamaGenForCausalLM")


@cache
def _leave_process_group() -> None:
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    os.setpgrp()

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
