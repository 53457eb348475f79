"""A test hook: a logits processor of vLLM that ends the engine's process when it meets a certain seed."""

from __future__ import annotations

import os

import torch
from vllm import SamplingParams

from vllm_llamagen.vllm_compat import BatchUpdate, LogitsProcessorV1, VllmConfig

POISON_SEED = 666


class Poison(LogitsProcessorV1):
    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        pass

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        pass

    def is_argmax_invariant(self) -> bool:
        return True

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        for _, params, *_ in batch_update.added if batch_update else ():
            if params.seed == POISON_SEED:
                os._exit(1)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        return logits
