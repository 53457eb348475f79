"""CPU specifics: cores, threads, memory.

Only `tune_process` changes the process it runs in. The command line calls it; building a pipeline never does.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from contextlib import suppress

import torch

from llamagen_server.engine import container

FEW_CORES = 4
SMALL_NETWORK = 2**23
"""Below this many parameters, thread synchronisation costs as much as the computation."""


def cores() -> int:
    """Returns the number of cores that this process may use; more threads than a container's quota would wait."""
    quota = container.cpu_quota()
    return _allowed_cores() if quota is None else max(1, min(_allowed_cores(), int(quota)))


def has_quota() -> bool:
    """Whether a container's quota leaves less than the cores on which this process may run."""
    quota = container.cpu_quota()
    return quota is not None and quota < _allowed_cores()


def _allowed_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_on_few_cores(parameters: int) -> int | None:
    """Returns the threads for a network of this size: 1 for a small one, else all cores. None on many cores."""
    if cores() > FEW_CORES:
        return None
    return 1 if parameters < SMALL_NETWORK else cores()


def share_out(ids: Sequence[int], workers: int) -> list[list[int]]:
    """Splits core ids into equal groups, one for each worker. On many cores, at least one is left for this process."""
    spare = 1 if len(ids) > FEW_CORES else 0
    size = max(1, (len(ids) - spare) // workers)
    return [list(ids[size * worker : size * (worker + 1)]) for worker in range(workers)]


def tune_process(vq_parameters: int) -> int:
    """Tunes this process, which must be our own, for decoding images on a CPU.

    Freed memory is kept. On few cores, a small image tokenizer gets one thread, so that several images are decoded
    side by side. Else torch, which sees the cores and not a container's quota, gets no more threads than that leaves.

    Returns:
        The number of images to decode at a time.
    """
    _keep_freed_memory()
    if threads_on_few_cores(vq_parameters) != 1:
        if torch.get_num_threads() > cores():
            torch.set_num_threads(cores())
        return 1
    torch.set_num_threads(1)
    return cores()


def _keep_freed_memory() -> None:
    """Makes glibc keep large blocks that are freed (``man mallopt``), unless the environment configures malloc.

    A decoder on a CPU allocates them again for each image; the kernel would map and clear their pages each time.
    """
    trim_threshold, mmap_threshold, arena_max = -1, -3, -8
    if any(name.startswith("MALLOC_") for name in os.environ):
        return
    with suppress(OSError, AttributeError, TypeError):  # other C libraries lack mallopt
        mallopt = ctypes.CDLL(None).mallopt
        if mallopt(mmap_threshold, 2**30) or mallopt(mmap_threshold, 2**25):  # glibc before 2.35 allows 32 MiB
            mallopt(trim_threshold, 2**31 - 1)
            mallopt(arena_max, 1)  # the heaps of other arenas end at 64 MiB


def has_bfloat16_units() -> bool:
    """Whether this CPU computes bfloat16 in hardware; without that it is slower than float32."""
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
