"""``llamagen serve`` as a subprocess."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil


class Server:
    """Serves a model directory, by default the demo. Its output goes to the file ``log``."""

    def __init__(self, model_dir: Path | None, log: Path, wait: bool = True) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "llamagen_server", "serve", "--port", str(port), "--enforce-eager"]
        if model_dir is not None:
            command.insert(4, str(model_dir))
        self.log = log
        with log.open("w") as output:  # in a session of its own, as a terminal gives it a process group of its own
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        self.url = f"http://127.0.0.1:{port}"
        start = time.monotonic()
        while wait and not self.is_ready():
            assert self.process.poll() is None, log.read_text()
            assert time.monotonic() - start < 180, log.read_text()
            time.sleep(0.2)

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health").status_code == 200
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        """Kills the server outright. Its engine must not outlive it."""
        engine = psutil.Process(self.process.pid).children(recursive=True) if self.process.poll() is None else []
        self.process.kill()
        self.process.wait()
        _, alive = psutil.wait_procs(engine, 20)
        assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
