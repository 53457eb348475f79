"""The page of `make gpu-report`, from a report of made-up figures."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from scripts.gpu_report.page import page

ENGINE = {"dtype": "bfloat16", "v2_model_runner": True, "machine": {"bytes_per_s": 4.2e12, "flops_per_s": 7.8e14}}


def figures(batch: int, **more: Any) -> dict[str, Any]:
    row = {"batch": batch, "engine_s": 2.0, "images_per_s": batch / 2, "tokens_per_s": 1.0, "step_ms": 3.0}
    return {**row, "roofline_s": 1.0, "roofline_fraction": 0.5, **more}


def done(name: str, result: dict[str, Any], ended: str = "2026-12-01T10:00:00+00:00") -> dict[str, Any]:
    return {"name": name, "command": f"python {name}", "status": "done", "ended": ended, "result": result}


def parity(name: str, **counts: Any) -> dict[str, Any]:
    return done(name, {"passed": 9, "failed": 0, "skipped": 1, "failed_tests": [], **counts})


@pytest.fixture
def report() -> dict[str, Any]:
    loads = [
        {"load": f"{n} at a time", "images_per_s": rate, "e2el_p50_ms": 200.0, "engine_ms": 150.0, "error_rate": 0.0}
        for n, rate in ((1, 5.0), (8, 30.0), (64, 28.0))
    ]
    decoded = {"image_tokenizer": "demo", "pixels": 128, "batch": 8}
    parts = [
        parity("parity-v1"),
        parity("parity-v2"),
        done(
            "table-3B",
            {
                "settings": {"size": "3B"},
                "rows": [figures(8, eager_s=6.0, ratio=3.0), figures(128, eager_s=None, ratio=None)],
                **ENGINE,
            },
        ),
        done("windows-demo-0", {"settings": {"decode_window": 0}, "rows": [figures(1)], **ENGINE}),
        done(
            "windows-demo-4",
            {"settings": {"decode_window": 4}, "rows": [figures(1, step_ms=1.2, tokens_per_step=3.0)], **ENGINE},
        ),
        done(
            "decode",
            {
                "rows": [
                    {**decoded, "dtype": "float32", "images_per_s": 50.0},
                    {**decoded, "dtype": "bfloat16", "images_per_s": 90.0, "psnr_db": 54.3},
                ]
            },
            ended="2026-12-02T10:00:00+00:00",
        ),
        done("server", {"settings": {"max_concurrency": [1, 8, 64]}, "rows": loads}),
    ]
    machine = {"GPU": "NVIDIA H200", "driver": "580.1", "CPU": "a processor", "vLLM": "0.32.0"}
    return {"tiny": False, "machine": machine, "parts": parts}


def test_every_part_has_its_figures(report: dict[str, Any]) -> None:
    lines = page(report).splitlines()
    assert lines[0] == "# Benchmarks: NVIDIA H200"
    for line in (
        "| driver | 580.1 |",
        "| measured | 2026-12-01 to 2026-12-02 |",
        "| parity-v2 | yes | 9 | 0 | 1 |",
        "    python table-3B",
        "| 3B | 8 | 2 | 4 | 3 | 0.5 | 6 | 3 |",
        "| 0 | 1 | 2 | 0.5 | 1 | 3 | 1 |",
        "| 4 | 1 | 10 | 0.5 | 3 | 3.6 | 1.2 |",  # a step takes 3 x 1.2 ms, 1.2 times as long as one of 3 ms
        "| demo | 128 x 128 | float32 | 8 | 50 |  |",
        "| demo | 128 x 128 | bfloat16 | 8 | 90 | 54.3 |",
        "| 8 at a time | 30 | 200 |  |  |  | 150 |  |  |  | 0 |",
        "Saturation: 30 images/s, with 8 at a time.",
    ):
        assert line in lines, line
    text = "\n".join(lines)
    assert "Measured in bfloat16 on vLLM's V2 model runner. At best, memory copied 4200 GB/s" in text
    assert "Parity before speed" not in text
    assert "tiny" not in text
    assert "Parts without a result" not in text
    assert page(copy.deepcopy(report)) == page(report)


def test_a_baseline_without_memory_leaves_the_engines_figures(report: dict[str, Any]) -> None:
    assert "| 3B | 128 | 2 | 64 | 3 | 0.5 | out of memory | out of memory |" in page(report)


@pytest.mark.parametrize(
    ("changes", "cell"),
    [
        (
            {"status": "failed", "result": {"passed": 8, "failed": 1, "skipped": 0, "failed_tests": ["t.wrong"]}},
            "failed",
        ),
        ({"status": "stopped after 480 s", "result": None}, "stopped after 480 s"),
        ({"result": {"passed": 0, "failed": 0, "skipped": 9, "failed_tests": []}}, "done"),
    ],
)
def test_parity_comes_before_speed(report: dict[str, Any], changes: dict[str, Any], cell: str) -> None:
    report["parts"][1] |= changes
    text = page(report)
    assert "**Parity before speed: parity-v2 has not passed." in text.partition("\n## ")[0]
    assert f"| parity-v2 | no ({cell}) |" in text
    assert ("- `t.wrong`" in text) == (cell == "failed")


def test_parts_that_failed_are_listed_with_their_last_lines(report: dict[str, Any]) -> None:
    report["parts"][2] |= {"status": "failed", "last_lines": ["first", "CUDA error"]}
    report["parts"][-1] = {"name": "server", "command": "python server", "status": "not run"}
    text = page(report)
    assert "| table-3B | failed |\n| server | not run |" in text
    assert "    first\n    CUDA error" in text
    assert "## The paper's table" not in text
    assert "## The server" not in text


def test_a_server_that_answered_nothing_has_no_plan(report: dict[str, Any]) -> None:
    for row in report["parts"][-1]["result"]["rows"]:
        row |= {"images_per_s": 0.0, "error_rate": 1.0}
    text = page(report)
    assert "Saturation: 0 images/s" in text
    assert "plans with" not in text


def test_a_cpu_is_named_and_tiny_shapes_are_no_measurement(report: dict[str, Any]) -> None:
    del report["machine"]["GPU"]
    text = page({**report, "tiny": True})
    assert text.startswith("# Benchmarks: a processor\n")
    assert "**This is a test of the report with tiny shapes." in text
