"""Sets environment variables, and restores them.

vLLM and its libraries read much of their configuration from the environment. Only two functions set it:

- `set_process_defaults` is for processes of our own: the command line and the tests call it first.
- `engine_environment` surrounds every engine start, whoever starts it. The engine's processes inherit the environment;
  the calling process, which may be somebody else's trainer, gets its own back. `unchanged_environment` does the latter
  alone, for code that only imports vLLM: its imports change the environment too.

The values below are defaults; an engine's plan adds its own (threads, process group). A variable that the user has set
is left alone: the plan is made without it. This module imports neither torch nor vLLM.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

SHORT_SPIN = {"GOMP_SPINCOUNT": "10000"}
"""Engine and decoder share a CPU's cores: a thread that waits for others must not keep them from running."""

PROCESS_DEFAULTS = {
    # Quiet libraries: the log belongs to this server.
    "VLLM_LOGGING_LEVEL": "ERROR",
    "TRANSFORMERS_VERBOSITY": "error",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "TORCH_LOGS": "-torch._library.triton",  # "Triton not available", on every CPU
    # torch warns about its own code; Python about what an engine that was killed has left, when it cleans that up.
    "PYTHONWARNINGS": "ignore::FutureWarning,ignore:resource_tracker:UserWarning",
    **SHORT_SPIN,
}
"""For this process and its children. torch and vLLM read them when they are imported."""

ENGINE_DEFAULTS = {
    "VLLM_NO_USAGE_STATS": "1",
    # A forked engine would neither reload our plugin nor read its own environment.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
}
"""For the engine's processes, on every device."""

CPU_ENGINE_DEFAULTS = {
    # The V2 model runner needs Triton, which has no CPU backend: only the tests run it there, in an interpreter.
    "VLLM_USE_V2_MODEL_RUNNER": "0",
    # On a CPU, vLLM cannot reload its own ahead-of-time compilation cache.
    "VLLM_USE_AOT_COMPILE": "0",
    # Large pages for tensors and for what kernels allocate: a decode step reads all weights.
    "THP_MEM_ALLOC_ENABLE": "1",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    **SHORT_SPIN,
}
"""For the engine's processes on a CPU, in addition to `ENGINE_DEFAULTS`."""

GPU_ENGINE_DEFAULTS = {
    # Compiling and capturing CUDA graphs take minutes. vLLM's own lines show how far it is.
    "VLLM_LOGGING_LEVEL": "INFO",
}
"""For the engine's processes on a GPU, in addition to `ENGINE_DEFAULTS`."""

EAGER_CPU_ENGINE_DEFAULTS = {
    # vLLM compiles some small functions even then, such as one for log-probabilities; there may be no compiler.
    "TORCHDYNAMO_DISABLE": "1",
}
"""For the processes of an eager engine on a CPU, in addition to `CPU_ENGINE_DEFAULTS`."""

CHANGED_BY_VLLM = re.compile(
    r"VLLM_|TORCHINDUCTOR_|TRITON_|TILELANG_|PYTORCH_NVML_BASED_CUDA_CHECK$|NUMEXPR_MAX_THREADS$|LD_PRELOAD$"
    r"|LD_LIBRARY_PATH$|LOCAL_WORLD_SIZE$|RAY_ADDRESS$|QT_QPA_"
)
"""Names of the variables that vLLM and the libraries it imports (OpenCV among them) change in the calling process."""

_lock = threading.RLock()
_process_defaults: dict[str, str] = {}
"""The variables that `set_process_defaults` has set."""


def set_process_defaults() -> None:
    """Sets `PROCESS_DEFAULTS` for good. Call it before torch or vLLM are imported, in a process of your own."""
    for name, value in PROCESS_DEFAULTS.items():
        if name not in os.environ:
            os.environ[name] = _process_defaults[name] = value


def is_set_by_user(name: str) -> bool:
    """Whether a variable has a value that `set_process_defaults` has not given it."""
    return name in os.environ and os.environ[name] != _process_defaults.get(name)


@contextmanager
def engine_environment(more: Mapping[str, str] | None = None) -> Iterator[None]:
    """Gives engines that start inside it `ENGINE_DEFAULTS`, where unset, and ``more``; restores the environment after.

    ``more`` counts even where a variable is set: libraries set some of them when they are imported.

    ``os.environ`` belongs to the whole process, so other threads see the change meanwhile. Engines that start at
    the same time wait for each other.
    """
    more = more or {}
    with unchanged_environment({*ENGINE_DEFAULTS, *more}):
        os.environ.update({**ENGINE_DEFAULTS, **os.environ, **more})
        yield


@contextmanager
def unchanged_environment(names: Collection[str] = ()) -> Iterator[None]:
    """Restores ``names`` and vLLM's variables at the end of a block, or of a function that it decorates.

    All other variables are left alone: another thread may have set them meanwhile.
    """
    with _lock:
        before = dict(os.environ)
        try:
            yield
        finally:
            for name in os.environ.keys() | before.keys():
                value = before.get(name)
                if os.environ.get(name) == value or not (name in names or CHANGED_BY_VLLM.match(name)):
                    continue
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
