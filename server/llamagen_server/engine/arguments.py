"""vLLM's own flags, and what LlamaGen needs them to be."""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch
from pydantic import ValidationError

from llamagen_server.core.errors import EngineError
from vllm_llamagen.config import LlamaGenConfig

if TYPE_CHECKING:
    from vllm import LLM
    from vllm.engine.arg_utils import AsyncEngineArgs

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds every engine flag of vLLM under its own name, except those that the model directory decides."""
    from vllm.engine.arg_utils import AsyncEngineArgs

    AsyncEngineArgs.add_cli_args(parser)
    parser.set_defaults(model=None, max_num_seqs=None, kv_cache_memory_bytes=None, gpu_memory_utilization=None)


def engine_args(args: argparse.Namespace, path: str, config: LlamaGenConfig) -> AsyncEngineArgs:
    """The engine's arguments: the user's flags, then what LlamaGen needs, then defaults for the machine.

    Raises:
        ValueError: a flag contradicts what LlamaGen needs.
    """
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.platforms import current_platform

    from vllm_llamagen.runner_v1 import logits_processor

    needed = config.max_position_embeddings
    if args.max_model_len is not None and 0 <= args.max_model_len < needed:
        raise ValueError(f"--max-model-len is {args.max_model_len}, one image of this model needs {needed}")
    args.model = path
    args.skip_tokenizer_init = True
    args.use_tqdm_on_load = False
    args.enable_prompt_embeds = config.condition == "text"
    args.hf_overrides = {**(args.hf_overrides or {}), "guidance_streams": config.guidance_streams}
    v2 = os.environ.get("VLLM_USE_V2_MODEL_RUNNER") == "1"
    ours = logits_processor(config.guidance_streams, v2)
    # First, so that others see mixed logits.
    args.logits_processors = [ours, *(p for p in args.logits_processors or [] if p != ours)]
    if args.logprobs_mode.startswith("raw"):
        args.logprobs_mode = "processed_logprobs"
    if args.gpu_memory_utilization is None:
        args.gpu_memory_utilization = AsyncEngineArgs.gpu_memory_utilization
    if current_platform.is_cpu():
        _cpu_defaults(args, config)
    return AsyncEngineArgs.from_cli_args(args)


def free_share() -> float:
    """Share of the GPU's memory for the engine: what the stages around it left, less 1 GiB for its CUDA context."""
    free, total = torch.cuda.mem_get_info()
    return round((0.95 * free - 2**30) / total, 3)


def default_flags(**changes: Any) -> argparse.Namespace:
    """What `add_arguments` parses from an empty command line, with changes."""
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser()
    add_arguments(parser)
    return argparse.Namespace(**{**vars(parser.parse_args([])), **changes})


def _cpu_defaults(args: argparse.Namespace, config: LlamaGenConfig) -> None:
    if args.dtype == "auto":
        args.dtype = "float32"  # few CPUs have bfloat16 units
    if not args.enforce_eager and (missing := missing_for_compilation()):
        logger.warning("%s not found: running eager, which is slower than compiled", missing)
        args.enforce_eager = True
    if args.enable_chunked_prefill:
        raise ValueError("--enable-chunked-prefill does not work on a CPU: vLLM cannot take back a seeded draw there")
    args.enable_chunked_prefill = False
    _small_machine(args, config)
    os.environ.setdefault("VLLM_USE_AOT_COMPILE", "0")  # what vLLM saves of it on a CPU, it cannot load again
    # Large pages in the engine's process, of tensors and of what kernels allocate: a step reads all weights.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    if args.block_size is None:
        args.block_size = 32  # the smallest: least is left over behind an image; vLLM's is 128
    bytes_per_image = kv_cache_bytes(config, args.dtype, args.block_size)
    if args.max_num_seqs is None:
        fits = psutil.virtual_memory().available // 2 // bytes_per_image
        args.max_num_seqs = max(1, min(32, fits))
    if args.kv_cache_memory_bytes is not None and args.kv_cache_memory_bytes < bytes_per_image:
        raise ValueError(
            f"--kv-cache-memory-bytes is {args.kv_cache_memory_bytes}, one image of this model needs {bytes_per_image}"
        )
    if args.kv_cache_memory_bytes is None and "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
        args.kv_cache_memory_bytes = (args.max_num_seqs + 1) * bytes_per_image


FEW_CORES = 4
SMALL = 2**23
"""Weights of a network with which threads wait for each other about as long as they compute, on a CPU."""


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_on_few_cores(weights: int) -> int | None:
    """Threads for a network of so many weights: one for a small one, else all cores. None on a machine with many."""
    if cores() > FEW_CORES:
        return None
    return 1 if weights < SMALL else cores()


def _small_machine(args: argparse.Namespace, config: LlamaGenConfig) -> None:
    """On a few cores the engine is one process, with `threads_on_few_cores`.

    vLLM would start a second one for the model and keep a core back for the first, which hardly needs it.
    """
    from vllm.v1.executor.uniproc_executor import UniProcExecutor

    is_placed = args.distributed_executor_backend or "VLLM_CPU_OMP_THREADS_BIND" in os.environ
    is_parallel = args.tensor_parallel_size * args.pipeline_parallel_size * args.data_parallel_size > 1
    threads = threads_on_few_cores(config.step_weights)
    if threads and not is_placed and not is_parallel:
        args.distributed_executor_backend = UniProcExecutor
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))


def missing_for_compilation() -> str | None:
    """What torch.compile needs on a CPU and this machine has not: a C++ compiler, Python's headers."""
    compiler = os.environ.get("CXX", "g++")
    if not shutil.which(compiler):
        return f"C++ compiler {compiler}"
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    return None if header.exists() else str(header)


def kv_cache_bytes(config: LlamaGenConfig, dtype: str, block_size: int) -> int:
    """KV-cache bytes of one image, in whole blocks: keys and values of all streams, layers and positions."""
    blocks = -(-config.max_position_embeddings // block_size)
    bytes_per_value = 4 if dtype in ("float32", "float") else 2
    per_token = 2 * config.n_layer * config.num_key_value_heads * config.head_dim * bytes_per_value
    return blocks * block_size * per_token


def start_engine(args: AsyncEngineArgs) -> Any:
    """Starts vLLM; returns its AsyncLLM. Takes 5 to 90 seconds.

    Raises:
        ValueError: vLLM refuses a flag.
        EngineError: the engine's process ended; it has logged why.
    """
    from vllm.v1.engine.async_llm import AsyncLLM

    try:
        return AsyncLLM.from_engine_args(args)
    except ValidationError as error:
        raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
    except RuntimeError as error:
        raise EngineError(f"the engine did not start ({str(error).splitlines()[0]}); see the log above") from None


def start_offline_engine(args: AsyncEngineArgs) -> LLM:
    """Starts vLLM for batches that are known from the start."""
    from vllm import LLM

    arguments = vars(args)
    asynchronous_only = ("enable_log_requests",)
    return LLM(**{name: value for name, value in arguments.items() if name not in asynchronous_only})
