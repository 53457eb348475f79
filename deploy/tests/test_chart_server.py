"""The Helm chart and the server that it runs: arguments, routes, ports, stopping, keys, metrics."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from deploy.tests.chart import CASES, CHART, VALUES, Object, pod, render, serve_flags, server

from llamagen_server.api.app import create_app
from llamagen_server.core import metrics


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def objects(case: str) -> dict[str, Object]:
    return render(CASES[case])


# The server behind it


def test_llamagen_accepts_the_arguments(case: str, objects: dict[str, Object]) -> None:
    flags = serve_flags(objects)
    assert flags.host == "0.0.0.0"
    assert flags.model_dir == {"default": None, "cuda": "/models/t2i-xl"}.get(case, "/models/c2i-b")
    assert flags.max_num_seqs == {"default": None, "cuda": 64}.get(case, 16)


def test_probes_ask_routes_that_exist(objects: dict[str, Object]) -> None:
    routes = {route.path for route in create_app("model").routes if "GET" in getattr(route, "methods", ())}
    probes = {name: server(objects)[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startup": "/ready",
        "readiness": "/ready",
        "liveness": "/health",
    }
    asked = {probe["path"] for probe in probes.values()}
    if "ServiceMonitor" in objects:
        asked |= {endpoint["path"] for endpoint in objects["ServiceMonitor"]["spec"]["endpoints"]}
    assert asked <= routes
    (test_address,) = re.findall(r'"(http://.+?)"', objects["Pod"]["spec"]["containers"][0]["args"][0])
    service = objects["Service"]
    assert test_address == f"http://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}/ready"


def test_every_port_leads_to_the_server(objects: dict[str, Object]) -> None:
    (port,) = server(objects)["ports"]
    assert port["containerPort"] == serve_flags(objects).port
    named = [server(objects)[f"{name}Probe"]["httpGet"]["port"] for name in ("startup", "readiness", "liveness")]
    (service_port,) = objects["Service"]["spec"]["ports"]
    named.append(service_port["targetPort"])
    if "NetworkPolicy" in objects:
        (rule,) = objects["NetworkPolicy"]["spec"]["ingress"]
        named += [allowed["port"] for allowed in rule["ports"]]
    assert set(named) == {port["name"]}
    if "ServiceMonitor" in objects:
        assert objects["ServiceMonitor"]["spec"]["endpoints"][0]["port"] == service_port["name"]
    if "Ingress" in objects:
        (rule,) = objects["Ingress"]["spec"]["rules"]
        backend = rule["http"]["paths"][0]["backend"]["service"]
        assert backend == {"name": objects["Service"]["metadata"]["name"], "port": {"name": service_port["name"]}}
    if "HTTPRoute" in objects:
        metrics_rule, rule = objects["HTTPRoute"]["spec"]["rules"]
        assert metrics_rule == {"matches": [{"path": {"type": "PathPrefix", "value": "/metrics"}}]}  # leads nowhere
        assert rule["backendRefs"] == [{"name": objects["Service"]["metadata"]["name"], "port": service_port["port"]}]
        assert rule["timeouts"] == {"request": "0s"}  # gateways end long requests by default


@pytest.mark.parametrize("seconds", [5, 42, 1800])
def test_a_pod_gets_its_time_to_start(seconds: int) -> None:
    objects = render({"startupSeconds": seconds})
    probe = server(objects)["startupProbe"]
    assert seconds <= probe["periodSeconds"] * probe["failureThreshold"] < seconds + probe["periodSeconds"]
    assert objects["Deployment"]["spec"]["progressDeadlineSeconds"] > seconds


@pytest.mark.parametrize("drain", [{}, {"delaySeconds": 1, "timeoutSeconds": 0}, {"timeoutSeconds": 900}])
def test_accepted_images_are_finished_before_a_pod_is_killed(drain: Object) -> None:
    objects = render({"drain": drain})
    delay = server(objects)["lifecycle"]["preStop"]["sleep"]["seconds"]
    expected = VALUES["drain"] | drain
    assert delay == expected["delaySeconds"]
    assert serve_flags(objects).shutdown_timeout == expected["timeoutSeconds"]
    assert pod(objects)["terminationGracePeriodSeconds"] >= delay + expected["timeoutSeconds"] + 30
    assert server(objects)["livenessProbe"]["terminationGracePeriodSeconds"] == delay + 30  # nothing to finish


def test_gpus_become_a_limit_and_tensor_parallel() -> None:
    def with_gpus(count: int) -> tuple[Object, int]:
        objects = render({"gpus": count})
        return server(objects)["resources"]["limits"], serve_flags(objects).tensor_parallel_size

    memory = VALUES["resources"]["limits"]
    assert with_gpus(0) == (memory, 1)
    assert with_gpus(1) == (memory | {"nvidia.com/gpu": 1}, 1)
    assert with_gpus(4) == (memory | {"nvidia.com/gpu": 4}, 4)


def test_a_cpu_pod_has_as_many_threads_as_it_requests_cores() -> None:
    def variables(values: Object) -> Object:
        return {variable["name"]: variable for variable in server(render(values))["env"]}

    threads = variables({})["OMP_NUM_THREADS"]["valueFrom"]["resourceFieldRef"]
    assert threads == {"containerName": "server", "resource": "requests.cpu"}
    assert variables({})["VLLM_CPU_OMP_THREADS_BIND"]["value"] == "nobind"
    without = {"OMP_NUM_THREADS", "VLLM_CPU_OMP_THREADS_BIND"}
    assert not without & variables({"gpus": 1}).keys()
    assert not without & variables({"resources": {"requests": {"cpu": None}}}).keys()


def test_the_users_environment_replaces_the_charts() -> None:
    """Each name once: server-side apply refuses a list with the same name twice."""
    given = [{"name": "OMP_NUM_THREADS", "value": "1"}, {"name": "VLLM_CPU_KVCACHE_SPACE", "value": "8"}]
    variables = server(render({"env": given}))["env"]
    assert [variable["name"] for variable in variables] == [
        "HF_HUB_OFFLINE",
        "VLLM_CPU_OMP_THREADS_BIND",
        "OMP_NUM_THREADS",
        "VLLM_CPU_KVCACHE_SPACE",
    ]
    assert variables[2:] == given


# Keys


def test_the_server_reads_the_keys_of_the_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llamagen_server.api.middleware.api_key import Keyring

    monkeypatch.delenv("LLAMAGEN_API_KEY", raising=False)
    objects = render(CASES["keda"])
    (volume,) = [v for v in pod(objects)["volumes"] if v["name"] == "api-keys"]
    (mount,) = [m for m in server(objects)["volumeMounts"] if m["name"] == "api-keys"]
    (item,) = volume["secret"]["items"]
    flags = serve_flags(objects)
    assert flags.api_key_file == [Path(mount["mountPath"]) / item["path"]]
    (file := tmp_path / "keys").write_text(objects["Secret"]["stringData"][item["key"]])
    flags.api_key_file = [file]
    keyring = Keyring.collect(flags.api_key, flags.api_key_file)
    assert [bool(keyring.client(key)) for key in (b"first-key", b"second-key", b"third-key")] == [True, True, False]


def test_other_keys_restart_the_pods() -> None:
    def annotations(keys: list[str]) -> Object:
        return render({"apiKeys": {"keys": keys}})["Deployment"]["spec"]["template"]["metadata"]["annotations"]

    assert annotations(["a"]) == annotations(["a"])
    assert annotations(["a"]) != annotations(["a", "b"])


# Scaling and monitoring


def test_autoscaling_follows_the_images_in_flight() -> None:
    (name,) = {metric.name for metric in metrics.IN_FLIGHT.collect()}
    hpa, keda = render(CASES["hpa"]), render(CASES["keda"])
    scaler, scaled = hpa["HorizontalPodAutoscaler"]["spec"], keda["ScaledObject"]["spec"]
    (pods_metric,) = scaler["metrics"]
    assert pods_metric["pods"]["metric"]["name"] == name
    assert pods_metric["pods"]["target"] == {"type": "AverageValue", "averageValue": "16"}
    (trigger,) = scaled["triggers"]
    assert (trigger["type"], trigger["metricType"]) == ("prometheus", "AverageValue")
    service = keda["Service"]["metadata"]["name"]
    assert trigger["metadata"]["query"] == f'sum({name}{{namespace="prod",service="{service}"}})'
    assert trigger["metadata"]["threshold"] == "16"
    assert trigger["metadata"]["serverAddress"] == CASES["keda"]["autoscaling"]["keda"]["prometheus"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (2, 20)
    assert (scaled["minReplicaCount"], scaled["maxReplicaCount"]) == (2, 20)
    behavior = scaled["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert scaler["behavior"] == behavior == VALUES["autoscaling"]["behavior"]
    assert behavior["scaleDown"]["stabilizationWindowSeconds"] >= 300
    for objects, target in ((hpa, scaler["scaleTargetRef"]), (keda, scaled["scaleTargetRef"])):
        assert target["name"] == objects["Deployment"]["metadata"]["name"]
        assert "replicas" not in objects["Deployment"]["spec"]  # an upgrade would undo the scaling


def test_a_rollout_never_takes_a_pod_before_its_successor_is_ready() -> None:
    assert render({})["Deployment"]["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_alerts_and_dashboard_arrive_as_they_are() -> None:
    objects = render(CASES["cuda"])
    assert objects["PrometheusRule"]["spec"] == yaml.safe_load((CHART / "files/alerts.yaml").read_text())
    assert objects["PrometheusRule"]["spec"]["groups"][0]["rules"]
    (dashboard,) = objects["ConfigMap"]["data"].values()
    assert dashboard == (CHART / "files/dashboard.json").read_text()
    assert objects["ConfigMap"]["metadata"]["labels"]["grafana_dashboard"] == "1"
    for kind in ("ServiceMonitor", "PrometheusRule"):
        assert objects[kind]["metadata"]["labels"]["release"] == "prometheus"
