"""The scenarios of deploy/loadtest, much shortened: each runs and its report agrees with the server's counters."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from PIL import Image
from prometheus_client import REGISTRY
from tests.helpers.app import make_app
from tests.helpers.app_on_a_port import serve

from llamagen_server.bench.scenario import read_scenario
from llamagen_server.cli import main as cli
from llamagen_server.core.options import Limits

FILES = sorted((Path(__file__).parents[1] / "loadtest").glob("*.yaml"))
SECONDS = 3.0
"""Length of each scenario in these tests."""


@pytest.fixture(scope="module")
def app(class_model_dir: Path) -> FastAPI:
    """The app with an engine that takes no time."""
    return make_app(class_model_dir)


@pytest.fixture(scope="module")
def url(app: FastAPI) -> Iterator[str]:
    with serve(app) as address:
        yield address


def run(file: Path, url: str, out: Path, *flags: str, seconds: float = SECONDS) -> str:
    """Runs a scenario in about ``seconds`` and returns its report."""
    scale = seconds / sum(phase.seconds for phase in read_scenario(file).phases)
    cli.main(["bench", "scenario", str(file), "--base-url", url, "--out", str(out), "--scale", str(scale), *flags])
    with Image.open(out / file.stem / "report.png") as image:
        assert image.width > 1000
    return (out / file.stem / "report.md").read_text()


def table(report: str) -> list[dict[str, str]]:
    """Returns the rows of the first table."""
    text = re.findall(r"^\|(.*)\|$", report.split("Mean seconds")[0], re.M)
    lines = [[cell.strip() for cell in line.split("|")] for line in text]
    end = next((i for i, line in enumerate(lines) if line[0] == "kind"), len(lines))
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:end]]


def count(name: str, **labels: str) -> float:
    """A counter of the server, which runs in this process."""
    return REGISTRY.get_sample_value(name, labels) or 0.0


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_scenario_has_a_report(file: Path, url: str, tmp_path: Path) -> None:
    report = run(file, url, tmp_path, "--capacity", "20")
    rows = table(report)
    assert [row["phase"] for row in rows] == [p.name for p in read_scenario(file).phases if not p.warm_up]
    assert sum(int(row["requests"]) for row in rows) > 0
    for row in rows:
        assert (row["ok"], row["429"], row["failed"]) == (row["requests"], "0", "0")
    assert "finished images, as many as this client received" in report
    assert ("By kind of request:" in report) == (file.stem == "mixed")
    assert ("**Knee" in report) == (file.stem == "ramp")


def test_requests_above_the_servers_limit_are_counted_as_429(
    app: FastAPI, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.state.pipeline.admission, "limits", Limits(max_in_flight=2))
    before = [count("llamagen_requests_total", outcome=outcome) for outcome in ("overloaded", "failed")]
    report = run(FILES[0].with_name("burst.yaml"), url, tmp_path, "--capacity", "40")
    refused, failed = (sum(int(row[name]) for row in table(report)) for name in ("429", "failed"))
    after = [count("llamagen_requests_total", outcome=outcome) for outcome in ("overloaded", "failed")]
    assert [later - earlier for earlier, later in zip(before, after, strict=True)] == [refused, failed]
    assert refused > 0
    assert f"- {refused} x 429: 2 images are in flight, at most 2 are allowed" in report


def test_the_example_of_the_page_is_a_scenario(root: Path, tmp_path: Path) -> None:
    [example] = re.findall(r"^```yaml\n(.*?)^```", (root / "docs" / "load-testing.md").read_text(), re.M | re.S)
    (tmp_path / "monday.yaml").write_text(example)
    scenario = read_scenario(tmp_path / "monday.yaml")
    assert [phase.name for phase in scenario.phases] == ["warm-up", "arrival", "batch job"]


@pytest.mark.engine
@pytest.mark.long
def test_a_real_server(demo_url: str, tmp_path: Path) -> None:
    """Saturation is measured, streams have previews, the server's memory is visible."""
    report = run(FILES[0].with_name("mixed.yaml"), demo_url, tmp_path, seconds=12)
    assert re.search(r"Saturation with this mix: [\d.]+ images/s \(images/s by requests at a time: .* at 1, ", report)
    rows = table(report)
    assert [row["failed"] for row in rows] == ["0", "0"]
    assert all(float(row["p50, s"]) > 0 for row in rows if int(row["ok"]))
    assert "finished images, as many as this client received" in report
    assert re.search(r"HTTP process: [1-9]\d+ MiB at the start", report)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["nothing.yaml"], "nothing.yaml"),
        ([str(FILES[0]), "--scale", "0"], "--scale is 0, must be positive"),
        ([str(FILES[0]), "--capacity", "max"], "--capacity is 'max', must be auto or a positive number"),
        ([str(FILES[0]), "--base-url", "http://127.0.0.1:9"], "http://127.0.0.1:9 does not answer"),
    ],
)
def test_wrong_flags_are_refused(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["bench", "scenario", "--out", str(tmp_path), *flags])
    assert end.value.code == 2
    assert message in capsys.readouterr().err
