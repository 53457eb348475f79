"""LlamaGen for vLLM: the language model, its classifier-free guidance and their registration."""


def register() -> None:
    """Registers LlamaGen with vLLM and transformers (entry point ``vllm.general_plugins``).

    vLLM calls this in every process it starts, and may call it again. What it imports is in modules of vLLM that each
    of these processes loads anyway.
    """
    from vllm_llamagen.process_group import leave_process_group_if_asked

    leave_process_group_if_asked()  # before imports that take seconds: a Ctrl-C is for the parent
    from transformers import AutoConfig
    from vllm import ModelRegistry

    from vllm_llamagen.config import LlamaGenConfig
    from vllm_llamagen.engine_settings import register_settings
    from vllm_llamagen.model import LlamaGenForCausalLM

    AutoConfig.register(LlamaGenConfig.model_type, LlamaGenConfig, exist_ok=True)
    if "LlamaGenForCausalLM" not in ModelRegistry.get_supported_archs():
        # The class, not its name: for a name, vLLM starts a process that inspects the model, 16 s on two cores.
        ModelRegistry.register_model("LlamaGenForCausalLM", LlamaGenForCausalLM)
    register_settings("LlamaGenForCausalLM")
