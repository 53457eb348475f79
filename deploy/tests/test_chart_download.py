"""The chart's init container that downloads a model: run as Kubernetes runs it, with its folders in a temporary one."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from helm_python.chart import Chart

CHART = Path(__file__).parents[1] / "helm/llamagen-serve"
REPOSITORY = "my-org/t2i-xl"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {"config.json": b"{}", "vq/config.json": b'{"dtype": "bfloat16"}', "model.safetensors": bytes(10_000)}


class Pod:
    """The init container of one pod, with a models volume."""

    def __init__(self, folder: Path, **download: Any) -> None:
        self.models = folder / "models"
        self.models.mkdir(exist_ok=True)
        (cache := folder / "cache").mkdir(exist_ok=True)
        values = {"model": {"name": "t2i-xl", "download": download}}
        with Chart.load(CHART) as chart:
            text = chart.render(values)["llamagen-serve/templates/deployment.yaml"]
        for inside, outside in (("/models", self.models), ("/cache", cache)):
            text = text.replace(inside, str(outside))
        (container,) = yaml.safe_load(text)["spec"]["template"]["spec"]["initContainers"]
        own = {variable["name"]: variable["value"] for variable in container["env"]}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = {"PATH": path, "XDG_CACHE_HOME": str(cache), **own}
        self.command = [word.replace("$(DIR)", own["DIR"]) for word in container["command"] + container["args"]]
        self.model = self.models / "t2i-xl"

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command, env=self.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def run(self) -> tuple[int, str]:
        process = self.start()
        output, _ = process.communicate(timeout=60)
        return process.returncode, output


class Hub(BaseHTTPRequestHandler):
    """As much of the Hugging Face hub's HTTP API as a download needs. ``server.requests`` has the paths of GET."""

    def do_GET(self) -> None:
        self.server.requests.append(self.path)  # type: ignore[attr-defined]
        self.answer(with_body=True)

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def answer(self, with_body: bool) -> None:
        resolve = f"/{REPOSITORY}/resolve/{COMMIT}/"
        body, headers = None, {}
        if self.path.partition("?")[0] == f"/api/models/{REPOSITORY}/revision/v1":
            siblings = [{"rfilename": name} for name in FILES]
            body = json.dumps({"id": REPOSITORY, "sha": COMMIT, "siblings": siblings}).encode()
        elif self.path.startswith(f"/api/models/{REPOSITORY}/tree/{COMMIT}"):
            files = [{"type": "file", "path": name, "size": len(data), "oid": name} for name, data in FILES.items()]
            body = json.dumps(files).encode()
        elif self.path.startswith(resolve):
            name = self.path.removeprefix(resolve)
            body, headers = FILES[name], {"X-Repo-Commit": COMMIT, "ETag": f'"{name.replace("/", "-")}"'}
        self.send_response(404 if body is None else 200)
        for header, value in headers.items():
            self.send_header(header, value)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        if with_body and body:
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Keeps the test's output clean."""


@pytest.fixture
def hub() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        server.requests = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_model_of_the_hub_is_downloaded_once(tmp_path: Path, hub: ThreadingHTTPServer) -> None:
    endpoint = {"name": "HF_ENDPOINT", "value": f"http://127.0.0.1:{hub.server_port}"}
    pod = Pod(tmp_path, hub=REPOSITORY, revision="v1", env=[endpoint])
    code, output = pod.run()
    assert code == 0, output
    assert {name: (pod.model / name).read_bytes() for name in FILES} == FILES
    assert output.endswith(f"{pod.model} is complete\n")
    asked = len(hub.requests)  # type: ignore[attr-defined]
    assert asked >= len(FILES)
    assert pod.run() == (0, f"{pod.model} exists: nothing to download\n")
    assert len(hub.requests) == asked  # type: ignore[attr-defined]


def test_a_repository_that_does_not_exist_leaves_no_model(tmp_path: Path, hub: ThreadingHTTPServer) -> None:
    endpoint = {"name": "HF_ENDPOINT", "value": f"http://127.0.0.1:{hub.server_port}"}
    pod = Pod(tmp_path, hub="my-org/unknown", env=[endpoint])
    code, output = pod.run()
    assert code != 0
    assert "my-org/unknown" in output
    assert not pod.model.exists()


def test_a_command_of_the_user_may_download(tmp_path: Path) -> None:
    (archive := tmp_path / "t2i-xl").mkdir()
    (archive / "config.json").write_text("{}")
    pod = Pod(tmp_path, command=["cp", f"{archive}/config.json", "$(DIR)"])
    code, output = pod.run()
    assert code == 0, output
    assert [path.name for path in pod.model.iterdir()] == ["config.json"]


def test_the_example_for_an_archive_works(tmp_path: Path) -> None:
    """The example of docs/kubernetes.md, with an archive on this machine."""
    page = (CHART.parents[2] / "docs/kubernetes.md").read_text()
    (example,) = [text for text in re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL) if "tarfile" in text]
    command = yaml.safe_load(example)["model"]["download"]["command"]
    archive = tmp_path / "model.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(CHART / "values.yaml", "vq/config.json")
    code, output = (
        pod := Pod(tmp_path, command=[re.sub(r"https://[^\"]+", archive.as_uri(), w) for w in command])
    ).run()
    assert code == 0, output
    assert (pod.model / "vq/config.json").read_bytes() == (CHART / "values.yaml").read_bytes()


def test_after_a_failure_the_next_attempt_continues(tmp_path: Path) -> None:
    fails_once = 'test -e "$DIR/half" && exec touch "$DIR/rest"; touch "$DIR/half"; exit 7'
    pod = Pod(tmp_path, command=["sh", "-c", fails_once])
    assert pod.run() == (7, "")
    assert not pod.model.exists()
    assert pod.run() == (0, f"{pod.model} is complete\n")
    assert {path.name for path in pod.model.iterdir()} == {"half", "rest"}


def test_pods_that_share_the_volume_take_turns(tmp_path: Path) -> None:
    slow = f'echo started >> {tmp_path}/log; sleep 0.5; touch "$DIR/model"'
    pods = [Pod(tmp_path, command=["sh", "-c", slow]) for _ in range(4)]
    processes = [pod.start() for pod in pods]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert (tmp_path / "log").read_text() == "started\n"
    assert sorted(output.split(maxsplit=1)[1] for output in outputs) == [
        *["exists: nothing to download\n"] * 3,
        "is complete\n",
    ]


def test_a_stop_signal_ends_the_download_at_once(tmp_path: Path) -> None:
    pod = Pod(tmp_path, command=["sh", "-c", "echo started; exec sleep 600"])
    process = pod.start()
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)  # waits for everybody who has its output open: the download too
    assert process.returncode == 143
    assert not pod.model.exists()
