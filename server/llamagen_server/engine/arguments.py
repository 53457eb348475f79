"""vLLM's own flags, the values that LlamaGen needs, and defaults for the machine."""

from __future__ import annotations

import argparse
import copy
import importlib.util
import logging
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llamagen_server.engine import compilation, container, cpu, folders, placement
from llamagen_server.engine.environment import (
    CPU_ENGINE_DEFAULTS,
    EAGER_CPU_ENGINE_DEFAULTS,
    GPU_ENGINE_DEFAULTS,
    is_set_by_user,
    unchanged_environment,
)
from llamagen_server.engine.frontend_flags import check_frontend_flags
from llamagen_server.engine.window_rule import MAX_WINDOW, window_ranges
from vllm_llamagen.checks import check_tensor_parallel, window_config
from vllm_llamagen.config import LlamaGenConfig

if TYPE_CHECKING:
    from vllm_llamagen.vllm_compat import AsyncEngineArgs

logger = logging.getLogger(__name__)

CPU_WORKER = "vllm_llamagen.cpu_worker.LlamaGenCPUWorker"
CONTAINER_WORKER = "vllm_llamagen.cpu_worker.ContainerWorker"
"""The worker without vLLM's check whether the KV cache fits; `pipeline.memory` has checked that."""

CPU_BLOCK_SIZE = 32
"""Tokens per KV-cache block on a CPU. Smallest supported block: wastes least KV cache at the end of an image."""
MAX_COMPILE_THREADS = 8
"""C++ compilers at a time in each worker."""
GPU_BLOCK_SIZE = 16
"""Tokens per KV-cache block of vLLM on a GPU."""


@dataclass(frozen=True)
class EnginePlan:
    """Everything that starting an engine needs."""

    arguments: AsyncEngineArgs
    environment: dict[str, str] = field(default_factory=dict)
    """Variables for the engine's processes, besides `environment.ENGINE_DEFAULTS`; none that the user has set."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds every engine flag of vLLM under its own name.

    vLLM's default policy ignores the priorities by which clients get their turns (`core.rounds`).
    """
    from vllm_llamagen.vllm_compat import AsyncEngineArgs

    AsyncEngineArgs.add_cli_args(parser)
    parser.set_defaults(model=None, max_num_seqs=None, kv_cache_memory_bytes=None, gpu_memory_utilization=None)
    parser.set_defaults(scheduling_policy="priority")
    parser.add_argument(
        "--decode-window",
        type=int,
        default=0,
        metavar="K",
        help="guess K tokens ahead in a step and keep those that are right: the same images in fewer steps, as long as "
        "the GPU waits for its memory; 0: none (default: 0)",
    )
    parser.add_argument(
        "--decode-window-rule",
        default="rows",
        metavar="RULE",
        help="smaller windows for more images in a step: rows bounds the work of a step, fixed keeps K, and ranges "
        "such as 1-8:16,9-32:4 are what llamagen bench engine --calibrate-window prints (default: rows)",
    )


@unchanged_environment()
def default_flags(**changes: Any) -> argparse.Namespace:
    """Returns the flags of an empty command line, with ``changes`` by their names in Python (``max_num_seqs=8``).

    Raises:
        ValueError: vLLM has no such flag.
    """
    from vllm_llamagen.vllm_compat import FlexibleArgumentParser

    parser = FlexibleArgumentParser()
    add_arguments(parser)
    flags = vars(parser.parse_args([]))
    if unknown := sorted(changes.keys() - flags.keys()):
        raise ValueError(f"vLLM has no engine argument {', '.join(unknown)}")
    return argparse.Namespace(**{**flags, **changes})


@unchanged_environment()
def plan_engine(
    flags: argparse.Namespace, model_path: str, config: LlamaGenConfig, weight_bytes: int = 0
) -> EnginePlan:
    """Completes the user's flags with defaults for the machine. Changes no argument.

    The settings that LlamaGen needs on any machine come from `vllm_llamagen.engine_settings`.

    Args:
        weight_bytes: memory that weights will take, which the default size of a CPU's KV cache leaves to them.

    Raises:
        ValueError: a flag contradicts what LlamaGen needs.
    """
    from vllm_llamagen.vllm_compat import AsyncEngineArgs, current_platform

    check_frontend_flags(flags)
    check_tensor_parallel(config, flags.tensor_parallel_size)
    args = copy.deepcopy(flags)  # vLLM changes the objects that are in them
    needed = config.max_position_embeddings
    if args.max_model_len is not None and 0 <= args.max_model_len < needed:
        raise ValueError(f"--max-model-len is {args.max_model_len}, one image of this model needs {needed}")
    args.model = model_path
    args.use_tqdm_on_load = False
    _set_decode_window(args, config)
    args.hf_overrides = {**(args.hf_overrides or {}), "cfg_branches": config.cfg_branches}
    if args.gpu_memory_utilization is None:
        args.gpu_memory_utilization = AsyncEngineArgs.gpu_memory_utilization
    environment = folders.variables()
    if current_platform.is_cpu():
        _set_chunked_prefill_on_cpu(args)
        _set_cpu_defaults(args, config, weight_bytes)
        workers = args.tensor_parallel_size * args.pipeline_parallel_size * args.data_parallel_size
        place = placement.place_workers(workers) if workers > 1 else placement.place_alone(args, config)
        compiled = _compile_or_run_eager(args)
        eager = EAGER_CPU_ENGINE_DEFAULTS if args.enforce_eager else {}
        ours = CPU_ENGINE_DEFAULTS | eager | place
    else:
        _check_kv_cache(
            args, kv_cache_bytes(config, args.dtype, args.block_size or GPU_BLOCK_SIZE) // args.tensor_parallel_size
        )
        ours, compiled = GPU_ENGINE_DEFAULTS, {}
    environment |= {name: value for name, value in ours.items() if not is_set_by_user(name)} | compiled
    arguments = AsyncEngineArgs.from_cli_args(args)
    if current_platform.is_cpu() and not args.enforce_eager:
        # vLLM sets 1: Triton's kernels are compiled in processes. Those in C++, a dozen, are compiled from threads.
        threads = max(1, min(MAX_COMPILE_THREADS, cpu.cores() // workers))
        arguments.compilation_config.inductor_compile_config.setdefault("compile_threads", threads)
    return EnginePlan(arguments, environment)


def kv_cache_bytes(config: LlamaGenConfig, dtype: str, block_size: int) -> int:
    """Returns the KV-cache bytes of one image in whole blocks: keys and values of all branches, layers and tokens."""
    blocks = -(-config.max_position_embeddings // block_size)
    per_token = 2 * config.n_layer * config.num_key_value_heads * config.head_dim * bytes_per_value(dtype)
    return blocks * block_size * per_token


def bytes_per_value(dtype: str) -> int:
    """Returns the bytes of a value of the language model and its KV cache."""
    return 4 if dtype in ("float32", "float") else 2


def cpu_dtype(dtype: str) -> str:
    """Returns the dtype that ``--dtype`` means on a CPU."""
    return "float32" if dtype == "auto" else dtype  # few CPUs have bfloat16 units


def _set_decode_window(args: argparse.Namespace, config: LlamaGenConfig) -> None:
    window = args.decode_window
    if not 0 <= window <= MAX_WINDOW:
        raise ValueError(f"--decode-window is {window}, must be from 0 to {MAX_WINDOW}")
    if not window:
        return
    if args.speculative_config:
        raise ValueError("--decode-window and --speculative-config exclude each other")
    ranges = window_ranges(args.decode_window_rule, window, config.cfg_branches)
    if ranges and args.data_parallel_size > 1:
        raise ValueError(
            f"--decode-window-rule is {args.decode_window_rule}, must be fixed with --data-parallel-size "
            f"{args.data_parallel_size}: vLLM cannot change the window there"
        )
    args.speculative_config = window_config(window)
    if ranges:
        args.speculative_config["num_speculative_tokens_per_batch_size"] = ranges


def _set_chunked_prefill_on_cpu(args: argparse.Namespace) -> None:
    if _runs_v2_on_cpu():
        return
    if args.enable_chunked_prefill:
        raise ValueError("--enable-chunked-prefill does not work on a CPU: vLLM cannot undo a seeded sample there")
    args.enable_chunked_prefill = False


def _runs_v2_on_cpu() -> bool:
    """Whether vLLM's V2 model runner runs in Triton's interpreter, as in tests.

    Raises:
        ValueError: the user wants it, and there is no interpreter.
    """
    wanted = os.environ.get("VLLM_USE_V2_MODEL_RUNNER", "0")
    if wanted == "0":
        return False
    if os.environ.get("TRITON_INTERPRET") != "1" or not importlib.util.find_spec("triton"):
        raise ValueError(
            f"VLLM_USE_V2_MODEL_RUNNER is {wanted}, must be 0 or unset: vLLM's V2 model runner needs a GPU; "
            "on a CPU only tests run it (make v2-test)"
        )
    return True


def _set_cpu_defaults(args: argparse.Namespace, config: LlamaGenConfig, weight_bytes: int) -> None:
    args.dtype = cpu_dtype(args.dtype)
    if args.block_size is None:
        args.block_size = CPU_BLOCK_SIZE
    bytes_per_image = kv_cache_bytes(config, args.dtype, args.block_size) // args.tensor_parallel_size  # of a worker
    if args.max_num_seqs is None:
        workers = args.tensor_parallel_size * args.data_parallel_size
        fits = (container.available_memory() - weight_bytes) // 2 // (bytes_per_image * workers)
        args.max_num_seqs = max(1, min(32, fits))
    _check_kv_cache(args, bytes_per_image)
    if args.worker_cls == "auto":
        args.worker_cls = CONTAINER_WORKER if container.has_memory_limit() else CPU_WORKER
    if args.kv_cache_memory_bytes is None and "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
        args.kv_cache_memory_bytes = (args.max_num_seqs + 1) * bytes_per_image


def _check_kv_cache(args: argparse.Namespace, bytes_per_image: int) -> None:
    if args.kv_cache_memory_bytes is not None and args.kv_cache_memory_bytes < bytes_per_image:
        raise ValueError(
            f"--kv-cache-memory-bytes is {args.kv_cache_memory_bytes}, one image of this model needs {bytes_per_image}"
        )


def _compile_or_run_eager(args: argparse.Namespace) -> dict[str, str]:
    """Makes the engine eager where torch.compile does not work. Returns the variables that torch.compile needs."""
    if args.enforce_eager:
        return {}
    try:
        return compilation.environment()
    except compilation.CompilationError as error:
        logger.warning("%s: running eager, which is slower than compiled", error)
        args.enforce_eager = True
        return {}
