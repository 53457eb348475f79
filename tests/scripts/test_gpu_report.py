"""`make gpu-report`: its parts, how they run and end, and a report with tiny shapes on real engines and a server."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from scripts.gpu_report import __main__ as gpu_report
from scripts.gpu_report import machine as gpu_machine
from scripts.gpu_report.parity import read_junit
from scripts.gpu_report.parts import FULL, LIMIT_S, TINY, Part, all_parts
from scripts.gpu_report.running import ROOT, read_record, run_part
from tests.helpers.waiting import has_ended

from llamagen_server.bench.engine_options import EngineOptions
from llamagen_server.cli import bench_engine, bench_http

MACHINE = {"CPU": "a processor", "torch": "2.13.0", "source digest": "abc"}
WRITES = "import sys; open(sys.argv[-1], 'w').write('{\"rows\": [1]}')"
HAS_GPU = torch.cuda.is_available()
HAS_V2 = HAS_GPU or os.environ.get("TRITON_INTERPRET") == "1"
needs_v2 = pytest.mark.skipif(not HAS_V2, reason="a whole report needs vLLM's V2 model runner: make v2-test")


def part(code: str, **changes: Any) -> Part:
    return replace(Part("part", ("-c", code)), **changes)


# The parts


def test_the_parts_have_names_of_their_own_and_parity_comes_first() -> None:
    names = [part.name for part in all_parts(FULL)]
    assert len(set(names)) == len(names)
    parity = [name.startswith("parity-") for name in names]
    assert parity == sorted(parity, reverse=True)
    assert all(part.limit_s <= LIMIT_S <= 480 for part in all_parts(FULL))
    assert [name for name in names if name.startswith("table-")] == [
        f"table-{size}{suffix}" for size in ("B", "L", "XL", "XXL", "3B") for suffix in ("", "-128")
    ]


@pytest.mark.parametrize("scale", [FULL, TINY])
def test_the_engines_flags_exist(scale: Any) -> None:
    parser = argparse.ArgumentParser()
    bench_engine.add_arguments(parser)
    flags = [part.command[4:] for part in all_parts(scale) if "bench" in part.command]
    assert len(flags) == len(scale.sizes) * len(scale.table) + 2 * len(scale.windows)
    for words in flags:
        args = parser.parse_args(words)
        EngineOptions(size=args.size, batch=tuple(args.batch), decode_window=args.decode_window, repeat=args.repeat)
    parser = argparse.ArgumentParser()
    bench_http.add_arguments(parser)
    bench_http.load_options(parser.parse_args(scale.load))


@pytest.mark.parametrize("scale", [FULL, TINY])
def test_the_files_of_parity_exist(root: Path, scale: Any) -> None:
    words = [word.removeprefix("--ignore=").partition("::")[0] for words in scale.parity.values() for word in words]
    paths = [word for word in words if word.startswith("tests/")]
    assert len(paths) >= len(scale.parity)
    assert [path for path in paths if not (root / path).exists()] == []


def test_parts_are_chosen_by_name_and_pattern() -> None:
    parts = all_parts(FULL)
    assert [part.name for part in gpu_report.choose(parts, ["server", "table-B*"])] == [
        "table-B",
        "table-B-128",
        "server",
    ]
    assert gpu_report.choose(parts, ["*"]) == parts
    with pytest.raises(SystemExit, match="--only has tabel, must be of parity-v1, "):
        gpu_report.choose(parts, ["server", "tabel"])


def test_counts_of_parity() -> None:
    text = """<testsuites><testsuite>
        <testcase classname="a.b" name="good"/><testcase classname="a.b" name="wrong"><failure/></testcase>
        <testcase classname="a.b" name="broken"><error/></testcase>
        <testcase classname="a.b" name="not_here"><skipped/></testcase></testsuite></testsuites>"""
    counts = {"passed": 1, "failed": 2, "skipped": 1, "failed_tests": ["a.b.wrong", "a.b.broken"]}
    assert read_junit(text) == counts


# The machine


def test_a_gpu_is_described(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    properties = SimpleNamespace(name="NVIDIA H200", total_memory=140 * 2**30, major=9, minor=0)
    properties.multi_processor_count = 132
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    (tmp_path / "nvidia-smi").write_text('#!/bin/sh\n[ "$1" = --query-gpu=driver_version ] && echo 580.1; echo 580.1\n')
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert list(gpu_machine.describe().items())[:6] == [
        ("GPU", "NVIDIA H200"),
        ("GPU memory", "140 GiB"),
        ("compute capability", "9.0"),
        ("multiprocessors", 132),
        ("driver", "580.1"),
        ("CUDA", "13.0"),
    ]


def test_without_a_gpu_the_cpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("PATH", "")  # no git
    for name in gpu_machine.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "0")
    facts = gpu_machine.describe()
    assert facts["CPU"]
    assert facts["torch"] == torch.__version__
    assert facts["variables"] == "VLLM_USE_V2_MODEL_RUNNER=0"
    assert {"GPU", "driver", "CUDA", "git revision"} & facts.keys() == set()


# Running


def test_a_part_leaves_its_result_and_is_used_again_on_the_same_machine(tmp_path: Path) -> None:
    ran = part(WRITES)
    record = run_part(ran, tmp_path, MACHINE)
    assert (record["status"], record["result"]) == ("done", {"rows": [1]})
    assert read_record(ran, tmp_path, MACHINE) == record
    assert read_record(part(WRITES + " "), tmp_path, MACHINE) is None
    assert read_record(replace(ran, name="other"), tmp_path, MACHINE) is None
    for name in ("CPU", "torch", "variables", "source digest"):
        assert read_record(ran, tmp_path, {**MACHINE, name: "another"}) is None
    assert read_record(ran, tmp_path, {**MACHINE, "git revision": "123"}) == record  # a page was committed, say


@pytest.mark.parametrize("end", ["sys.exit(3)", "import os; os.kill(os.getpid(), 9)"])
def test_a_part_that_fails_keeps_its_last_lines_and_what_it_wrote(tmp_path: Path, end: str) -> None:
    failing = part(f"{WRITES}; print(*range(50), sep='\\n', flush=True); {end}")
    record = run_part(failing, tmp_path, MACHINE)
    assert (record["status"], record["result"]) == ("failed", {"rows": [1]})
    assert record["last_lines"] == [str(number) for number in range(20, 50)]


def test_a_part_without_a_result_has_failed(tmp_path: Path) -> None:
    (tmp_path / "part.result").write_text("{}")  # an earlier one
    for code in ("pass", WRITES.replace("}", "")):
        assert run_part(part(code), tmp_path, MACHINE)["status"] == "failed"


def test_variables_reach_the_part(tmp_path: Path) -> None:
    code = "import json, os, sys; json.dump({'v2': os.environ['V2']}, open(sys.argv[-1], 'w'))"
    told = part(code, variables={"V2": "1"})
    assert run_part(told, tmp_path, MACHINE)["result"] == {"v2": "1"}
    assert told.shown.startswith("V2=1 python -c ")


STARTS_A_CHILD = """
import os, subprocess, sys, time
child = [sys.executable, "-c", "import os, time; os.setpgrp(); print(os.getpid(), flush=True); time.sleep(60)"]
subprocess.Popen(child, stdout=open(sys.argv[1], "w"))
while not os.path.getsize(sys.argv[1]):
    time.sleep(0.01)
"""


@pytest.mark.parametrize(
    ("end", "status"), [("time.sleep(60)", "stopped after 1.5 s"), ("sys.exit(1)", "failed"), ("", "failed")]
)
def test_no_process_outlives_its_part(tmp_path: Path, end: str, status: str) -> None:
    """Not even one in a process group of its own, as the engine of a server is."""
    pid_file = tmp_path / "pid"
    starts = Part("part", ("-c", STARTS_A_CHILD + end, str(pid_file)), limit_s=1.5)
    start = time.monotonic()
    assert run_part(starts, tmp_path, MACHINE)["status"] == status
    assert time.monotonic() - start < 30
    child = int(pid_file.read_text())
    assert has_ended(child)


# The command


def run(
    monkeypatch: pytest.MonkeyPatch, parts: list[Part], out: Path, *argv: str, **facts: str
) -> tuple[int, dict[str, Any]]:
    """Runs the command with other parts; returns its exit status and the JSON of the report."""
    monkeypatch.setattr(gpu_report, "all_parts", lambda scale: parts)
    monkeypatch.setattr(gpu_report, "describe_machine", lambda: {**MACHINE, **facts})
    monkeypatch.setattr(gpu_report, "page", lambda report: "the page\n")
    handler = signal.getsignal(signal.SIGTERM)
    try:
        status = gpu_report.main(["--out", str(out), *argv])
    finally:
        signal.signal(signal.SIGTERM, handler)
    return status, json.loads((out / "benchmarks-gpu.json").read_text())


def statuses(report: dict[str, Any]) -> dict[str, str]:
    return {part["name"]: part["status"] for part in report["parts"]}


def test_other_parts_run_after_one_has_failed_and_only_that_runs_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flag = tmp_path / "flag"
    once = part(f"import os\nif os.path.exists({str(flag)!r}):\n    {WRITES}", name="fails-once")
    parts = [once, part(WRITES, name="good")]
    status, report = run(monkeypatch, parts, tmp_path)
    assert (status, statuses(report)) == (1, {"fails-once": "failed", "good": "done"})
    flag.touch()
    capsys.readouterr()
    status, report = run(monkeypatch, parts, tmp_path)
    assert (status, statuses(report)) == (0, {"fails-once": "done", "good": "done"})
    assert "good: done before" in capsys.readouterr().out
    assert (tmp_path / "benchmarks-gpu.md").read_text() == "the page\n"


def test_no_part_starts_that_might_not_end_within_the_budget(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    parts = [part(WRITES, name="long", limit_s=100), part(WRITES, name="short", limit_s=10)]
    status, report = run(monkeypatch, parts, tmp_path, "--budget", "60")
    assert (status, statuses(report)) == (1, {"long": "not run", "short": "done"})
    assert run(monkeypatch, parts, tmp_path, "--only", "short", "--budget", "0")[0] == 0  # it is done already


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_the_part_and_leaves_those_that_are_done(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int
) -> None:
    pid_file = tmp_path / "pid"
    waits = Part("waits", ("-c", STARTS_A_CHILD + "time.sleep(60)", str(pid_file)))

    def interrupt() -> None:
        while not (pid_file.exists() and pid_file.read_text()):
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    status, report = run(monkeypatch, [part(WRITES, name="good"), waits], tmp_path)
    thread.join()
    assert (status, statuses(report)) == (130, {"good": "done", "waits": "not run"})
    child = int(pid_file.read_text())
    assert has_ended(child)


def test_only_figures_of_a_gpu_go_to_docs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    root, out = tmp_path / "root", tmp_path / "out"
    (root / "docs").mkdir(parents=True)
    monkeypatch.setattr(gpu_report, "ROOT", root)
    parts = [part(WRITES)]
    for argv, facts in (([], {}), (["--tiny"], {"GPU": "NVIDIA H200"})):
        run(monkeypatch, parts, out, *argv, **facts)
        assert list((root / "docs").iterdir()) == []
    run(monkeypatch, parts, out, GPU="NVIDIA H200")
    assert {file.name for file in (root / "docs").iterdir()} == {"benchmarks-gpu.json", "benchmarks-gpu.md"}


def test_the_report_has_no_path_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    failing = part(f"raise FileNotFoundError('{ROOT}/models/x')")
    _, report = run(monkeypatch, [failing], tmp_path)
    assert report["parts"][0]["last_lines"][-1] == "FileNotFoundError: models/x"


def test_the_list_has_names_and_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_report.main(["--list", "--only", "table-3B"]) == 0
    [name, command] = capsys.readouterr().out.splitlines()
    assert name == "table-3B  (at most 480 s)"
    assert command.strip().startswith(
        "python -m llamagen_server bench engine --size 3B --image-size 384 --batch 1 8 32 "
    )


# All of it, with tiny shapes


def tiny_report(root: Path, out: Path, *names: str) -> tuple[dict[str, Any], str, str]:
    """Returns the results of the parts ``names``, which must all be done, the page, and what was printed."""
    command = [sys.executable, "-m", "scripts.gpu_report", "--tiny", "--out", str(out), "--only", *names]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    report = json.loads((out / "benchmarks-gpu.json").read_text())
    lines = {part["name"]: part["last_lines"] for part in report["parts"] if "last_lines" in part}
    assert not lines
    assert done.returncode == 0, done.stdout + done.stderr
    measured = {part["name"]: part["result"] for part in report["parts"] if part["status"] == "done"}
    assert set(measured) == set(names)
    return measured, (out / "benchmarks-gpu.md").read_text(), done.stdout


@pytest.mark.engine
@pytest.mark.slow
@needs_v2
def test_a_tiny_report(root: Path, tmp_path: Path) -> None:
    names = ("parity-v1", "table-B", "decode", "server")
    measured, text, _ = tiny_report(root, tmp_path, *names)
    assert (measured["parity-v1"]["passed"], measured["parity-v1"]["failed"]) == (1, 0)
    assert [row["batch"] for row in measured["table-B"]["rows"]] == [2]
    assert all(row["ratio"] > 0 for row in measured["table-B"]["rows"])
    assert measured["table-B"]["dtype"] == ("bfloat16" if HAS_GPU else "float32")
    assert measured["table-B"]["v2_model_runner"] == HAS_V2
    decoded = {(row["image_tokenizer"], row["dtype"]): row for row in measured["decode"]["rows"]}
    assert len(decoded) == 4
    assert decoded["demo", "bfloat16"]["psnr_db"] > 40
    assert [row["error_rate"] for row in measured["server"]["rows"]] == [0, 0]
    assert all(row["images_per_s"] > 0 for row in measured["server"]["rows"])
    assert "| parity-v1 | yes | 1 | 0 | 0 |" in text
    assert "## The paper's table" in text
    assert "## The server" in text

    before = {name: (tmp_path / f"{name}.json").stat().st_mtime_ns for name in names}
    _, again, printed = tiny_report(root, tmp_path, *names)
    assert printed.count("done before") == len(names)
    assert {name: (tmp_path / f"{name}.json").stat().st_mtime_ns for name in names} == before
    assert again == text


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.long
@needs_v2
def test_a_tiny_report_of_decode_windows(root: Path, tmp_path: Path) -> None:
    names = ("parity-v2", "parity-windows", "windows-demo-0", "windows-demo-4")
    measured, text, _ = tiny_report(root, tmp_path, *names)
    assert all(measured[name]["passed"] == 1 for name in ("parity-v2", "parity-windows"))
    [row] = measured["windows-demo-4"]["rows"]
    assert 1 < row["tokens_per_step"] <= 5
    assert "### demo" in text
