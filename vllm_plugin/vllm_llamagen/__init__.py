"""LlamaGen for vLLM: the language model, its classifier-free guidance and their registration."""


def register() -> None:
    """Registers LlamaGen with vLLM and transformers (entry point ``vllm.general_plugins``).

    vLLM calls this in every process it starts, so it is cheap and may be called again.
    """
    from transformers import AutoConfig
    from vllm import ModelRegistry

    from vllm_llamagen.config import LlamaGenConfig
    from vllm_llamagen.engine_settings import register_settings
    from vllm_llamagen.model import LlamaGenForCausalLM
    from vllm_llamagen.process_group import leave_process_group_if_asked

    leave_process_group_if_asked()
    AutoConfig.register(LlamaGenConfig.model_type, LlamaGenConfig, exist_ok=True)
    if "LlamaGenForCausalLM" not in ModelRegistry.get_supported_archs():
        # The class itself: of its name, vLLM would start a process to learn what the model can do, 16 s on two cores.
        ModelRegistry.register_model("LlamaGenForCausalLM", LlamaGenForCausalLM)
    register_settings("LlamaGenForCausalLM")
