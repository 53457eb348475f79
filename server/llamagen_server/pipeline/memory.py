"""Whether a model fits into the memory of a machine without a GPU, before anything is loaded."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llamagen_server.engine import container
from llamagen_server.engine.arguments import bytes_per_value, cpu_dtype
from llamagen_server.model_dir import ModelDir
from llamagen_server.model_dir.tensor_files import stored_shapes

if TYPE_CHECKING:
    from vllm_llamagen.vllm_compat import AsyncEngineArgs

GIB = 2**30
FLOAT32 = 4
"""Bytes of a value of the text encoder and the image tokenizer on a CPU."""

OTHER_PARTS = ("decoder.", "lm_head.", "vision_model.")
"""Starts of the names of tensors in a text encoder's file that are not loaded: parts of the whole T5 or CLIP."""

KV_CACHE_FLAGS = "--max-num-seqs (images at a time) or --kv-cache-memory-bytes"


@dataclass(frozen=True)
class WeightBytes:
    """Estimated bytes of a model's weights on a CPU: the number of stored values times the bytes of each in memory.

    It is a lower bound. Not counted are the libraries (about 1 GiB for each process), activations, and a text encoder
    that is downloaded or stored as ``pytorch_model.bin``.
    """

    model: int
    """Language model and image tokenizer."""
    text_encoder: int

    @classmethod
    def of(cls, model: ModelDir, dtype: str = "auto", copies: int = 1) -> WeightBytes:
        """``copies``: engines that each hold the whole language model (data parallel)."""
        language_model = language_model_bytes(model, cpu_dtype(dtype)) * copies
        encoder = Path(model.text_encoder or "")
        found = stored_shapes(encoder) if model.text_encoder and any(encoder.glob("*.safetensors")) else {}
        loaded = {name: shape for name, shape in found.items() if not name.startswith(OTHER_PARTS)}
        return cls(language_model + model.num_vq_parameters * FLOAT32, _values(loaded) * FLOAT32)

    @property
    def total(self) -> int:
        return self.model + self.text_encoder


def language_model_bytes(model: ModelDir, dtype: str) -> int:
    """Returns the bytes of the language model's weights in a dtype, as ``--dtype`` has it."""
    return _values(stored_shapes(model.path)) * bytes_per_value(dtype)


def check_memory(name: str, weights: WeightBytes, arguments: AsyncEngineArgs) -> None:
    """Compares weights and KV cache with the memory that is available.

    Raises:
        ValueError: they do not fit. If the weights alone would, the message names the flag that lowers the rest.
    """
    available = container.available_memory()
    workers = arguments.tensor_parallel_size * arguments.pipeline_parallel_size * arguments.data_parallel_size
    kv_cache = _kv_cache_bytes(arguments) * workers
    if weights.total + kv_cache <= available:
        return
    place = "in this container" if container.container_memory() == available else "on this machine"
    advice = f"; lower {KV_CACHE_FLAGS}" if weights.total < available and arguments.max_num_seqs > 1 else ""
    raise ValueError(
        f"memory is too small: {name} needs at least {(weights.total + kv_cache) / GIB:.1f} GiB "
        f"(weights {weights.model / GIB:.1f}, text encoder {weights.text_encoder / GIB:.1f}, "
        f"KV cache of {arguments.max_num_seqs} images {kv_cache / GIB:.1f}), "
        f"{available / GIB:.1f} GiB are available {place}{advice}"
    )


def _values(shapes: dict[str, list[int]]) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def _kv_cache_bytes(arguments: AsyncEngineArgs) -> int:
    """Returns the bytes of one worker's KV cache."""
    given = arguments.kv_cache_memory_bytes
    return int(os.environ.get("VLLM_CPU_KVCACHE_SPACE", 0)) * GIB if given is None else int(given)
