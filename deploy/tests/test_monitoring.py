"""Prometheus' configuration, the alert rules and the dashboards: by promtool, and on a running server under load."""

from __future__ import annotations

import asyncio
import json
import math
import re
import shutil
import socket
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import promql_parser
import pytest
import yaml
from deploy.grafana.render_panels import (
    DASHBOARD,
    Window,
    fill_in,
    legend,
    load_panels,
    query_range,
    read_variables,
    readable,
    render,
)
from deploy.tests.traffic import send_traffic
from prometheus_client.parser import text_string_to_metric_families

DEPLOY = Path(__file__).parents[1]
ALERTS = DEPLOY / "helm/llamagen-serve/files/alerts.yaml"
ALERTS_TEST = DEPLOY / "prometheus/alerts_test.yaml"
CONFIG = DEPLOY / "prometheus/prometheus.yml"
GPU_DASHBOARD = DEPLOY / "grafana/dashboards/gpu.json"
MANUAL = DEPLOY.parent / "docs/monitoring.md"

RATE_INTERVAL = "8s"
ANYTHING = defaultdict(lambda: ".*", __rate_interval="1m")
"""Values of the dashboard's variables where no Prometheus knows them."""
TARGET_LABELS = {"job", "instance"}
"""Labels that Prometheus itself adds to every series."""
PROMETHEUS_OWN = {"up"}
"""Series that Prometheus makes of a scrape, in addition to those that it finds there."""

needs_prometheus = pytest.mark.skipif(
    not (shutil.which("promtool") and shutil.which("prometheus")), reason="needs Prometheus (apt install prometheus)"
)


def alert_rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def graph_panels(dashboard: Path = DASHBOARD) -> list[dict[str, Any]]:
    return [panel for panel in load_panels(dashboard) if panel["type"] != "row"]


def manual_queries() -> list[str]:
    """The PromQL examples of the manual, one a line."""
    blocks = re.findall(r"```promql\n(.*?)```", MANUAL.read_text(), re.DOTALL)
    lines = [line.partition("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


def queries() -> list[str]:
    """Every query of the server's dashboard, of the alert rules and of the manual."""
    panels = [target["expr"] for panel in graph_panels() for target in panel["targets"]]
    return [*panels, *(rule["expr"] for rule in alert_rules()), *manual_queries()]


def promtool(*arguments: str | Path) -> str:
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_prometheus
def test_promtool_accepts_the_configuration_as_compose_mounts_it(tmp_path: Path) -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    for volume in services["prometheus"]["volumes"]:
        source, target, *_ = volume.split(":")
        if source.startswith("."):
            mounted = tmp_path / target.removeprefix("/")
            mounted.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(DEPLOY / source, mounted)
    assert f"{len(alert_rules())} rules found" in promtool(
        "check", "config", tmp_path / "etc/prometheus/prometheus.yml"
    )


@needs_prometheus
def test_promtool_runs_the_unit_tests_of_the_rules() -> None:
    promtool("check", "rules", ALERTS)
    promtool("test", "rules", ALERTS_TEST)


def test_each_alert_has_a_unit_test_where_it_fires_and_one_where_it_does_not() -> None:
    cases = [case for test in yaml.safe_load(ALERTS_TEST.read_text())["tests"] for case in test["alert_rule_test"]]
    names = {rule["alert"] for rule in alert_rules()}
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == names
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == names


@pytest.mark.parametrize("rule", alert_rules(), ids=lambda rule: rule["alert"])
def test_each_alert_has_what_an_operator_needs(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["for"]
    assert rule["annotations"].keys() == {"summary", "description", "runbook"}
    file, anchor = rule["annotations"]["runbook"].split("#")
    assert file == "docs/monitoring.md"
    assert anchor == rule["alert"].lower()
    assert f"### {rule['alert']}\n" in MANUAL.read_text()


@pytest.mark.parametrize("dashboard", [DASHBOARD, GPU_DASHBOARD], ids=lambda path: path.stem)
def test_dashboards_are_consistent(dashboard: Path) -> None:
    content = json.loads(dashboard.read_text())
    panels = content["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells), "panels overlap"
    assert max(x for x, _ in cells) == 23
    defined = {variable["name"] for variable in content["templating"]["list"]} | {"__rate_interval"}
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(content))) - {"__all"} <= defined
    for panel in graph_panels(dashboard):
        assert panel["title"]
        assert panel["description"].endswith(".")
        for target in panel["targets"]:
            promql_parser.parse(fill_in(target["expr"], ANYTHING))
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_the_dashboard_of_gpus_reads_the_exporter_alone() -> None:
    names = {name for panel in graph_panels(GPU_DASHBOARD) for name, _ in selectors(panel["targets"][0]["expr"])}
    assert names
    assert all(name.startswith("DCGM_FI_") for name in names)


def test_legends_and_values_are_rendered_as_grafana_writes_them() -> None:
    assert legend("{{instance}} p95", {"instance": "a:1", "job": "x"}) == "a:1 p95"
    assert fill_in('rate(a{job=~"$job"}[$__rate_interval])', ANYTHING) == 'rate(a{job=~".*"}[1m])'
    assert [readable(0.25, "s"), readable(2.5, "s"), readable(0.1, "percentunit")] == ["250 ms", "2.5 s", "10%"]
    assert [readable(2**20, "bytes"), readable(1500, "short"), readable(2, "reqps")] == ["1 MiB", "1.5 K", "2 req/s"]


def selectors(query: str) -> list[tuple[str, list[promql_parser.Matcher]]]:
    """The metrics of a query, each with its label matchers."""
    found = []

    def visit(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.append((node.name, node.matchers.matchers))

    promql_parser.walk(promql_parser.parse(fill_in(query, ANYTHING)), visit)
    return found


def grouping_labels(query: str) -> set[str]:
    """The labels in ``by``, ``without``, ``on`` and ``ignoring``."""
    lists = re.findall(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)", query)
    return {label.strip() for labels in lists for label in labels.split(",")}


def matches(matcher: promql_parser.Matcher, value: str) -> bool:
    op = promql_parser.MatchOp
    if matcher.op in (op.Equal, op.NotEqual):
        return (value == matcher.value) == (matcher.op == op.Equal)
    return bool(re.fullmatch(matcher.value, value)) == (matcher.op == op.Re)


@pytest.fixture(scope="module")
def prometheus(demo_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Window]]:
    """Address of a Prometheus server with the shipped configuration, and the time of mixed traffic that it watched."""
    folder = tmp_path_factory.mktemp("prometheus")
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    adapt_configuration(folder, demo_url.removeprefix("http://"), address)
    command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log)
    try:
        wait_for_target(f"http://{address}", process, folder / "log")
        start = time.time()
        asyncio.run(send_traffic(demo_url, seconds=15, clients=4))
        yield f"http://{address}", Window(start, time.time(), 1)
    finally:
        process.terminate()
        process.wait(30)


def adapt_configuration(folder: Path, server: str, address: str) -> None:
    """Writes the shipped configuration with other targets and times. Alerts fire as soon as they are true."""
    config = yaml.safe_load(CONFIG.read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    targets = {"llamagen": server, "prometheus": address}
    for job in config["scrape_configs"]:
        for static in job.get("static_configs", []):
            static["targets"] = [targets[job["job_name"]]]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    (folder / "alerts.yaml").write_text(re.sub(r"for: \d+m", "for: 0s", ALERTS.read_text()))


def wait_for_target(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(300):
        assert process.poll() is None, log.read_text()
        try:
            reply = httpx.get(f"{url}/api/v1/query", params={"query": "llamagen_ready == 1"}).json()
        except (httpx.TransportError, json.JSONDecodeError):  # while it starts, its replies are plain text
            reply = {}
        if reply.get("data", {}).get("result"):
            return
        time.sleep(0.1)
    raise AssertionError(log.read_text())


@pytest.mark.engine
@needs_prometheus
def test_every_metric_and_label_of_a_query_exists(demo_url: str, prometheus: tuple[str, Window]) -> None:
    series: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(httpx.get(f"{demo_url}/metrics").text):
        for sample in family.samples:
            series.setdefault(sample.name, []).append(sample.labels)
    all_labels = {label for labels in series.values() for one in labels for label in one} | TARGET_LABELS
    for query in queries():
        for name, matchers in selectors(query):
            if name in PROMETHEUS_OWN:
                continue
            assert name in series, f"no metric {name}: {query}"
            own = [matcher for matcher in matchers if matcher.name not in TARGET_LABELS]
            assert any(
                all(matcher.name in labels and matches(matcher, labels[matcher.name]) for matcher in own)
                for labels in series[name]
            ), f"no series of {name} matches: {query}"
        assert grouping_labels(query) <= all_labels, query


@pytest.mark.engine
@needs_prometheus
def test_every_panel_and_example_has_data_under_load(prometheus: tuple[str, Window]) -> None:
    url, window = prometheus
    panels = [(panel["title"], target) for panel in graph_panels() for target in panel["targets"]]
    examples = [(query, {"expr": query, "legendFormat": ""}) for query in manual_queries()]
    empty = []
    with httpx.Client(base_url=url) as client:
        variables = read_variables(client, DASHBOARD, RATE_INTERVAL)
        for title, target in [*panels, *examples]:
            series = query_range(client, {"targets": [target]}, window, variables)
            if not any(math.isfinite(value) for one in series for value in one.values):
                empty.append((title, target["expr"]))
    assert not empty


@pytest.mark.engine
@needs_prometheus
def test_variables_choose_the_servers_alone(demo_url: str, prometheus: tuple[str, Window]) -> None:
    with httpx.Client(base_url=prometheus[0]) as client:
        variables = read_variables(client, DASHBOARD, RATE_INTERVAL)
    assert (variables["job"], variables["instance"]) == ("llamagen", demo_url.removeprefix("http://"))
    assert variables["model"].endswith("demo_models/text")


@pytest.mark.engine
@needs_prometheus
def test_no_alert_fires_on_a_healthy_server(prometheus: tuple[str, Window]) -> None:
    reply = httpx.get(f"{prometheus[0]}/api/v1/rules").json()
    rules = [rule for group in reply["data"]["groups"] for rule in group["rules"]]
    assert [rule["name"] for rule in rules] == [rule["alert"] for rule in alert_rules()]
    assert {rule["health"] for rule in rules} == {"ok"}
    firing = {rule["name"] for rule in rules if rule["state"] == "firing"}
    assert firing <= {"LlamagenEventLoopLag"}  # the machine of the test may be slow


@pytest.mark.engine
@needs_prometheus
def test_the_dashboard_is_rendered(prometheus: tuple[str, Window], tmp_path: Path) -> None:
    url, window = prometheus
    render(DASHBOARD, url, window, RATE_INTERVAL, tmp_path / "dashboard.png")
    assert (tmp_path / "dashboard.png").read_bytes().startswith(b"\x89PNG")
