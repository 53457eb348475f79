"""Part ``server``: a server with the demo model, under the load of ``llamagen bench serve``, whose flags it takes."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from demo.shapes.captions import held_out_captions

from llamagen_server.cli import bench_http
from llamagen_server.core import logs

READY = re.compile(r"is ready after \d+ s: (http://[\w.:\[\]-]+)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--enforce-eager", action="store_true", help="a flag of the server")
    bench_http.add_arguments(parser)
    args = parser.parse_args()
    logs.set_up()
    serve = ["serve", "--port", "0", *(["--enforce-eager"] if args.enforce_eager else [])]
    with tempfile.TemporaryDirectory() as folder:
        args.prompts, log = Path(folder) / "captions.txt", Path(folder) / "server.log"
        args.prompts.write_text("\n".join(caption.text for caption in held_out_captions()))
        with log.open("w") as output:
            server = subprocess.Popen([sys.executable, "-m", "llamagen_server", *serve], stdout=output, stderr=output)
        try:
            args.base_url = wait_until_ready(server, log)
            bench_http.run(args)
        finally:
            server.terminate()
            server.wait()
            print("\n".join(line for line in log.read_text().splitlines() if "POST /generate" not in line))


def wait_until_ready(server: subprocess.Popen[bytes], log: Path) -> str:
    """Returns the address of the server. The part's time limit bounds the wait.

    Raises:
        RuntimeError: the server has ended.
    """
    while not (ready := READY.search(log.read_text())):
        if server.poll() is not None:
            raise RuntimeError(f"the server ended with status {server.returncode}")
        time.sleep(0.2)
    return ready[1]


if __name__ == "__main__":
    main()
