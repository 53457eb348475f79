"""Processes, threads and cores of an engine on a CPU."""

from __future__ import annotations

import argparse
import logging
import os

from llamagen_server.engine import container, cpu
from vllm_llamagen.config import LlamaGenConfig

logger = logging.getLogger(__name__)

BINDING = "VLLM_CPU_OMP_THREADS_BIND"
"""Variable with the cores of each worker, such as ``0,1|2,3``."""

QUEUE_BYTES = 240 * 2**20 + 20
"""Shared memory that vLLM demands for the queue from a worker to its engine (``shm_broadcast.MessageQueue``)."""


def place_alone(args: argparse.Namespace, config: LlamaGenConfig) -> dict[str, str]:
    """Makes an engine with one worker a single process where that is better. Returns the variable for its threads.

    vLLM would start a second process for the model, bind its threads to cores, and reserve one for the first process,
    which hardly needs it. Few cores are too few for that. Under a quota, threads may run on any core, and in every
    container vLLM would choose the same ones. With little shared memory there can be no second process.
    """
    from vllm_llamagen.vllm_compat import UniProcExecutor

    if args.distributed_executor_backend or BINDING in os.environ:
        return {}
    threads = cpu.threads_on_few_cores(config.step_weights)
    if threads is None and (cpu.has_quota() or _lacks_shared_memory()):
        threads = cpu.cores() - 1
    if threads is None:
        return {}
    args.distributed_executor_backend = UniProcExecutor
    return {"OMP_NUM_THREADS": str(threads)}


def place_workers(workers: int) -> dict[str, str]:
    """Gives each of several workers its own cores. Returns the variables for their threads.

    vLLM does so itself where every worker can have a memory node, and fails elsewhere. Under a quota, only the number
    of threads is limited.

    Raises:
        ValueError: there are too few cores, or too little shared memory.
    """
    from vllm_llamagen.vllm_compat import get_allowed_cpu_list

    found = container.shared_memory()
    if found is not None and found < QUEUE_BYTES:
        raise ValueError(
            f"{container.SHARED_MEMORY} has {found // 2**20} MiB, {workers} workers need {QUEUE_BYTES // 2**20} MiB "
            "(docker run --shm-size 1g)"
        )
    if BINDING in os.environ:
        return {}
    if cpu.has_quota():
        return {BINDING: "nobind", "OMP_NUM_THREADS": str(max(1, cpu.cores() // workers))}
    cpus = get_allowed_cpu_list()
    if len({c.numa_node for c in cpus}) >= workers:
        return {}
    if len(cpus) < workers:
        raise ValueError(
            f"{workers} workers (tensor * pipeline * data parallel size) need as many cores, there are {len(cpus)}"
        )
    cores = list({c.physical_core: c for c in cpus}.values())  # a second thread of the same core gains nothing
    groups = cpu.share_out([c.id for c in (cores if len(cores) >= workers else cpus)], workers)
    return {BINDING: "|".join(",".join(map(str, group)) for group in groups)}


def _lacks_shared_memory() -> bool:
    found = container.shared_memory()
    if found is None or found >= QUEUE_BYTES:
        return False
    logger.warning(
        "%s has %d MiB, two processes need %d MiB (docker run --shm-size 1g): the engine is one process, and its "
        "threads are not bound to cores",
        container.SHARED_MEMORY,
        found // 2**20,
        QUEUE_BYTES // 2**20,
    )
    return True
