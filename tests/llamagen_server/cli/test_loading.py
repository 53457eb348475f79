"""Ctrl-C in a command that loads a model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import asyncio, signal, subprocess, sys, time
from llamagen_server.cli import loading, main
from llamagen_server.engine import arguments

class Pipeline:
    async def generate(self, request, request_id):
        print("generating", flush=True)
        await asyncio.sleep(600)

    def shutdown(self):
        print("shut down")

def load(*_, **__):
    if step == "generating":
        return Pipeline()
    subprocess.Popen(["sleep", "600"])
    print("loading", flush=True)
    while True:
        try:
            time.sleep(600)
        except KeyboardInterrupt:  # lost, as inside vLLM's start
            pass

signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever started the tests may ignore it
step, *command = sys.argv[1:]
loading.load_pipeline, arguments.default_flags = load, lambda **_: None
main.main(command)
"""


@pytest.mark.parametrize(("step", "rest"), [("loading", ""), ("generating", "shut down\n")])
def test_ctrl_c_ends_generate_with_130(step: str, rest: str, class_model_dir: Path, tmp_path: Path) -> None:
    words = ["generate", str(class_model_dir), "--class-id", "3", "-o", str(tmp_path / "x.png")]
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, step, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == f"{step}\n"
            os.killpg(process.pid, signal.SIGINT)  # a terminal's Ctrl-C reaches all processes of the group
            out, error = process.communicate(timeout=60)  # ends when no child has the pipes any more
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert (process.returncode, out) == (130, rest)
    assert "Traceback" not in error
    assert ("stopped while loading" in error) == (step == "loading")
