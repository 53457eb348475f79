"""``llamagen serve`` as a subprocess."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil
from tests.helpers.engine_flags import exact_arguments


class Server:
    """Serves a model directory, by default the demo, on a free port. Its output goes to the file ``log``.

    ``url`` is set once the model is loaded, which the constructor waits for unless ``wait`` is False. ``arguments``
    are further flags; of two with the same name the later one counts. ``stuck``: the server of
    `tests.helpers.stuck_server`. ``eager`` is quick to start. ``variables`` are set in addition to those of this
    process.
    """

    def __init__(
        self,
        model_dir: Path | None,
        log: Path,
        wait: bool = True,
        arguments: Sequence[str] = (),
        stuck: bool = False,
        eager: bool = True,
        variables: Mapping[str, str] = {},
    ) -> None:
        module = ["tests.helpers.stuck_server"] if stuck else ["llamagen_server", "serve"]
        model = [] if model_dir is None else [str(model_dir)]
        flags = ["--port", "0", *exact_arguments(), *(["--enforce-eager"] if eager else []), *arguments]
        command = [sys.executable, "-m", *module, *model, *flags]
        self.log = log
        with log.open("w") as output:  # in a session of its own, as a terminal gives it a process group of its own
            self.process = subprocess.Popen(
                command, env={**os.environ, **variables}, stdout=output, stderr=output, start_new_session=True
            )
        self.url = ""
        if wait:
            try:
                self._wait()
            except AssertionError:
                self.kill()
                raise

    def _wait(self) -> None:
        start = time.monotonic()
        while not self.url:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() - start < 600, self.log.read_text()
            time.sleep(0.2)
            if ready := re.search(r"is ready after \d+ s: (https?://[\w.:%\[\]-]+)", self.log.read_text()):
                self.url = ready[1]

    def engine(self) -> psutil.Process:
        """Returns the process of vLLM's core."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        [engine] = [child for child in children if "EngineCore" in " ".join(child.cmdline())]
        return engine

    def kill(self) -> None:
        """Kills the server outright. Its engine must not outlive it."""
        engine = psutil.Process(self.process.pid).children(recursive=True) if self.process.poll() is None else []
        self.process.kill()
        self.process.wait()
        _, alive = psutil.wait_procs(engine, 20)
        assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
