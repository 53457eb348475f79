"""Measures the whole system on this machine and writes a page and its JSON.

Each part is a process with a time limit. Its result stays in the folder of the report: the same command goes on after
an interruption, and measures again only what failed, or what was measured on another device or with other code.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from scripts.gpu_report.page import page
from scripts.gpu_report.parts import FULL, TINY, Part, all_parts
from scripts.gpu_report.running import ROOT, read_record, run_part, write_whole

PAGE = "benchmarks-gpu.md"
RESULT = "benchmarks-gpu.json"


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 if every chosen part is done, 130 after Ctrl-C or SIGTERM, else 1."""
    args = _parser().parse_args(argv)
    parts = all_parts(TINY if args.tiny else FULL)
    chosen = choose(parts, args.only)
    if args.list:
        for part in chosen:
            print(f"{part.name}  (at most {part.limit_s:g} s)\n    {part.shown}")
        return 0
    out = (args.out or ROOT / "build" / ("gpu-report-tiny" if args.tiny else "gpu-report")).resolve()
    out.mkdir(parents=True, exist_ok=True)
    machine = describe_machine()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        status = 0 if run_all(chosen, out, machine, args.budget) else 1
    except KeyboardInterrupt:
        print("interrupted: the parts that are done stay")
        status = 130
    target = out if args.tiny or "GPU" not in machine else ROOT / "docs"
    write_report(parts, out, machine, target, args.tiny)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m scripts.gpu_report", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--only", nargs="+", default=["*"], metavar="PART", help="names of parts, or patterns such as 'table-*'")
    add("--list", action="store_true", help="print the parts with their commands, and run nothing")
    add("--tiny", action="store_true", help="shapes so small that a CPU runs all in minutes: a test, no measurement")
    add("--out", type=Path, metavar="FOLDER", help="folder of the results (default: build/gpu-report)")
    add("--budget", type=float, metavar="SECONDS", help="start no part whose limit exceeds what is left of this time")
    return parser


def choose(parts: Sequence[Part], patterns: Sequence[str]) -> list[Part]:
    """Returns the parts that a pattern matches, in their order. A pattern without a part ends the program."""
    for pattern in patterns:
        if not any(fnmatch(part.name, pattern) for part in parts):
            sys.exit(f"--only has {pattern}, must be of {', '.join(part.name for part in parts)}")
    return [part for part in parts if any(fnmatch(part.name, pattern) for pattern in patterns)]


def describe_machine() -> dict[str, Any]:
    command = [sys.executable, "-m", "scripts.gpu_report.machine"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit("the machine could not be described")
    return json.loads(done.stdout)


def run_all(parts: Sequence[Part], out: Path, machine: Mapping[str, Any], budget: float | None) -> bool:
    """Runs the parts that are not done yet. Returns whether all are done now."""
    end = time.monotonic() + budget if budget is not None else float("inf")
    complete = True
    for part in parts:
        record = read_record(part, out, machine)
        if record and record["status"] == "done":
            print(f"{part.name}: done before")
            continue
        if time.monotonic() + part.limit_s > end:
            print(f"{part.name}: left for the next run, its limit of {part.limit_s:g} s exceeds what is left")
            complete = False
            continue
        print(f"{part.name}: running, for at most {part.limit_s:g} s", flush=True)
        record = run_part(part, out, machine)
        print(f"{part.name}: {record['status']} ({record['seconds']:g} s)", flush=True)
        complete = complete and record["status"] == "done"
    return complete


def write_report(parts: Sequence[Part], out: Path, machine: Mapping[str, Any], target: Path, tiny: bool) -> None:
    """Writes the page and its JSON to the folder ``target``, from the records in ``out``."""
    records = [
        read_record(part, out, machine) or {"name": part.name, "command": part.shown, "status": "not run"}
        for part in parts
    ]
    text = json.dumps({"tiny": tiny, "machine": machine, "parts": records}, indent=2)
    text = text.replace(f"{ROOT}/", "")  # the page may be committed
    write_whole(target / RESULT, f"{text}\n")
    write_whole(target / PAGE, page(json.loads(text)))
    print(target / PAGE)


if __name__ == "__main__":
    sys.exit(main())
