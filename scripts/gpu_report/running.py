"""Running a part: a process in a session of its own, its time limit, and the file that records how it ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from scripts.gpu_report.parts import Part, Result

ROOT = Path(__file__).resolve().parents[2]
LAST_LINES = 30
MADE_WITH = (
    *("GPU", "GPU memory", "driver", "CUDA", "CPU", "cores"),
    *("Python", "torch", "vLLM", "triton", "variables", "source digest"),
)
"""Facts of the machine that must be the same for a part's file to be used again."""

Record = dict[str, Any]
"""How a part ended: ``name``, ``command``, ``status`` (done, failed, or stopped after its limit), ``seconds``,
``ended``, ``made_with``, ``result`` (None without one) and, unless it is done, ``last_lines``."""


def made_with(machine: Mapping[str, Any]) -> dict[str, Any]:
    return {name: machine[name] for name in MADE_WITH if name in machine}


def read_record(part: Part, out: Path, machine: Mapping[str, Any]) -> Record | None:
    """Returns the record of an earlier run, or None if there is none of this part, machine and code."""
    try:
        record: Record = json.loads((out / f"{part.name}.json").read_text())
    except (OSError, ValueError):
        return None
    same = record["command"] == part.shown and record["made_with"] == made_with(machine)
    return record if same else None


def run_part(part: Part, out: Path, machine: Mapping[str, Any]) -> Record:
    """Runs a part and writes its record to ``out``. Its output goes to a log file there.

    Nothing of the part outlives this call, whatever ends it: what a process leaves on a GPU would disturb the next one.
    """
    log, result_file = out / f"{part.name}.log", out / f"{part.name}.result"
    result_file.unlink(missing_ok=True)
    start = time.monotonic()
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, *part.command, part.result_flag, str(result_file)],
            cwd=ROOT,
            env={**os.environ, **part.variables},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            status = "done" if process.wait(part.limit_s) == 0 else "failed"
        except subprocess.TimeoutExpired:
            status = f"stopped after {part.limit_s:g} s"
        finally:
            process.kill()
            process.wait()
            end_session(process.pid)
    result = _read_result(part, result_file)
    if result is None and status == "done":
        status = "failed"
    record = {
        "name": part.name,
        "command": part.shown,
        "status": status,
        "seconds": round(time.monotonic() - start, 1),
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "made_with": made_with(machine),
        "result": result,
    }
    if status != "done":
        record["last_lines"] = log.read_text(errors="replace").splitlines()[-LAST_LINES:]
    write_whole(out / f"{part.name}.json", json.dumps(record, indent=2) + "\n")
    return record


def _read_result(part: Part, file: Path) -> Result | None:
    """Also reads the result of a part that failed: parity counts the tests that failed."""
    try:
        return part.read(file.read_text())
    except (OSError, ValueError, SyntaxError):  # SyntaxError: XML that was cut off
        return None


def end_session(leader: int) -> None:
    """Kills every process in the session that ``leader`` started. Waits until they have ended, for at most 20 s."""
    end = time.monotonic() + 20
    while (processes := list(_session(leader))) and time.monotonic() < end:
        for process in processes:
            with suppress(psutil.Error):
                process.kill()
        time.sleep(0.1)


def _session(leader: int) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                yield process


def write_whole(file: Path, text: str) -> None:
    """Writes a file in one step: an interruption leaves the old one."""
    unfinished = file.with_name(f"{file.name}.unfinished")
    unfinished.write_text(text)
    unfinished.replace(file)
