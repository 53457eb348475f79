"""Profile of the engine's decode step, from Python's own profiler."""

from __future__ import annotations

import cProfile
import pstats
from collections.abc import Callable, Mapping
from typing import Any

PARTS = {
    "scheduling": (("sched/scheduler.py", "schedule"),),
    "model": (("vllm_llamagen/model.py", "forward"),),
    "logits": (("vllm_llamagen/model.py", "compute_logits"),),
    "guidance": (("vllm_llamagen/runner_v1.py", "apply"),),
    "sampling": (("sample/sampler.py", "sample"),),
    "output": (("sched/scheduler.py", "update_from_output"), ("engine/output_processor.py", "process_outputs")),
}
"""Functions of vLLM and its plugin that make up each part of a step, by the end of their file's path and their name."""

Stats = Mapping[tuple[str, int, str], tuple[int, int, float, float, Any]]
"""(file, line, function) -> (primitive calls, calls, own seconds, seconds with callees, callers), as in `pstats`."""


def profile_step(run: Callable[[], object], steps: int) -> dict[str, float]:
    """Returns the milliseconds of a decode step by part.

    On a GPU, a part's time is that of launching its kernels.

    Args:
        run: does ``steps`` decode steps in this thread.
    """
    profiler = cProfile.Profile()
    profiler.runcall(run)
    stats: Stats = vars(pstats.Stats(profiler))["stats"]
    return {part: seconds / steps * 1000 for part, seconds in part_seconds(stats).items()}


def part_seconds(stats: Stats) -> dict[str, float]:
    """Returns the seconds of each of `PARTS`, and as ``rest`` the time outside them.

    Where several functions match, such as the ``forward`` of a model and of its layers, the outermost one counts.
    """

    def seconds(file: str, function: str) -> float:
        return max((s[3] for (f, _, name), s in stats.items() if f.endswith(file) and name == function), default=0.0)

    parts = {part: sum(seconds(*function) for function in functions) for part, functions in PARTS.items()}
    return parts | {"rest": max(s[3] for s in stats.values()) - sum(parts.values())}
