"""Parts of a decode step, from the statistics of a profiler."""

from __future__ import annotations

import pytest

from llamagen_server.bench.step_profile import PARTS, part_seconds, profile_step


def entry(seconds: float) -> tuple[int, int, float, float, None]:
    return 1, 1, 0.0, seconds, None


def test_the_outermost_function_counts() -> None:
    stats = {
        ("/x/vllm_llamagen/model.py", 10, "forward"): entry(3.0),
        ("/x/vllm_llamagen/model.py", 99, "forward"): entry(2.0),  # of a layer
        ("/x/other/model.py", 1, "forward"): entry(4.0),
        ("/x/vllm/v1/core/sched/scheduler.py", 1, "update_from_output"): entry(0.5),
        ("/x/vllm/v1/engine/output_processor.py", 1, "process_outputs"): entry(0.25),
        ("/x/vllm/entrypoints/llm.py", 1, "generate"): entry(5.0),
    }
    parts = part_seconds(stats)
    assert (parts["model"], parts["output"], parts["sampling"]) == (3.0, 0.75, 0.0)
    assert parts["rest"] == pytest.approx(5.0 - 3.0 - 0.75)


def test_a_step_is_a_share_of_the_run() -> None:
    parts = profile_step(lambda: sum(range(1000)), steps=4)
    assert set(parts) == {*PARTS, "rest"}
    assert parts["model"] == 0 < parts["rest"]
