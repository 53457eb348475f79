"""The Helm chart: its objects against Kubernetes' schemas and each other, its values, the examples of its pages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import helm_python
import kubernetes_validate
import pytest
import yaml
from deploy.tests.chart import (
    CASES,
    CHART,
    VALUES,
    Object,
    chart,
    containers,
    matches,
    pod,
    render,
    serve_flags,
    server,
)
from helm_python.chart import lint

CORE = {"Deployment", "Service", "ServiceAccount", "PodDisruptionBudget", "Pod"}
KINDS = {
    "default": CORE,
    "cuda": CORE
    | {"HTTPRoute", "NetworkPolicy", "PersistentVolumeClaim", "ServiceMonitor", "PrometheusRule", "ConfigMap"},
    "keda": CORE | {"Ingress", "NetworkPolicy", "Secret", "ServiceMonitor", "ScaledObject"},
    "hpa": CORE | {"Ingress", "NetworkPolicy", "Secret", "ServiceMonitor", "HorizontalPodAutoscaler"},
}
CUSTOM = {"ServiceMonitor", "PrometheusRule", "ScaledObject", "HTTPRoute"}
"""Kinds of other projects. kubernetes-validate has no schemas of them: tests below check their content."""


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def objects(case: str) -> dict[str, Object]:
    return render(CASES[case])


# The chart


def test_lint_finds_nothing(case: str) -> None:
    report = lint(CHART, CASES[case], strict=True)
    assert report["errors"] == []
    assert [message["error"] for message in report["messages"]] == ["icon is recommended"]


def test_values_choose_the_objects(case: str, objects: dict[str, Object]) -> None:
    assert objects.keys() == KINDS[case]


def test_every_template_is_rendered_by_one_of_the_cases() -> None:
    rendered = {
        name.partition("/")[2]
        for values in CASES.values()
        for name, text in chart().render(values, name="images", namespace="prod").items()
        if text.strip()
    }
    templates = {str(path.relative_to(CHART)) for path in (CHART / "templates").rglob("[!_]*") if path.is_file()}
    assert rendered == templates


@pytest.mark.parametrize("version", ["1.30", kubernetes_validate.latest_version()])
def test_kubernetes_accepts_every_object(objects: dict[str, Object], version: str) -> None:
    for kind in objects.keys() - CUSTOM:
        kubernetes_validate.validate(objects[kind], version, strict=True)


def test_kubernetes_would_refuse_a_misspelt_field() -> None:
    wrong = render({})["Deployment"]
    wrong["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="livenesProbe"):
        kubernetes_validate.validate(wrong, "1.30", strict=True)


def test_names_fit_into_63_characters() -> None:
    values = CASES["cuda"] | {"fullnameOverride": "n" * 100, "apiKeys": {"keys": ["key"]}}
    names = [item["metadata"]["name"] for item in render(values).values()]
    assert max(map(len, names)) <= 63


# Values


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"replica": 2}, "additional properties 'replica' not allowed"),
        ({"gpus": "2"}, "at '/gpus': got string, want integer"),
        ({"image": {"tag": "a b"}}, "at '/image/tag': 'a b' does not match"),
        ({"args": "--max-num-seqs 8"}, "at '/args': got string, want array"),
        ({"resources": {"limit": {}}}, "at '/resources': additional properties 'limit' not allowed"),
        ({"cache": {"sizeLimit": "10 GB"}}, "at '/cache/sizeLimit': '10 GB' does not match"),
        ({"drain": {"delaySeconds": 0}}, "at '/drain/delaySeconds': minimum: got 0, want 1"),
        ({"autoscaling": {"type": "vpa"}}, "at '/autoscaling/type': value must be one of 'none', 'hpa', 'keda'"),
        ({"model": {"name": "models/t2i-xl"}}, "at '/model/name': 'models/t2i-xl' does not match"),
        ({"model": {"name": "t2i-xl"}}, "model.name is t2i-xl, but nothing provides it: set model.volume"),
        ({"model": {"download": {"hub": "org/m"}}}, "model.download is set, but not model.name"),
        (
            {"model": {"name": "m", "download": {"hub": "org/m", "command": ["true"]}}},
            "model.download.hub and model.download.command are both set",
        ),
        ({"apiKeys": {"keys": ["a"], "existingSecret": "b"}}, "apiKeys.keys and apiKeys.existingSecret are both set"),
        ({"autoscaling": {"type": "keda"}}, "set autoscaling.keda.prometheus, the address of Prometheus"),
        ({"autoscaling": {"minReplicas": 5}}, "autoscaling.minReplicas is 5, must be at most maxReplicas, which is 4"),
        ({"rollingUpdate": {"maxSurge": 0}}, "are both 0: no pod could ever be replaced"),
        ({"httpRoute": {"enabled": True}}, "httpRoute is enabled: set httpRoute.parentRefs"),
        ({"ingress": {"enabled": True}}, "ingress is enabled: set ingress.hosts"),
        (
            {"fullnameOverride": "1my.images"},
            "the Service would be called 1my.images: its name must start with a letter",
        ),
        ({"args": ["--port", "9000"]}, "args has --port, which the chart sets by service.port"),
        ({"args": ["--port=9000"]}, "args has --port, which the chart sets by service.port"),
        ({"args": ["--host=::"]}, "args has --host, which the chart sets to 0.0.0.0"),
        (
            {"args": ["--shutdown_timeout=9"]},
            "args has --shutdown_timeout, which the chart sets by drain.timeoutSeconds",
        ),
        ({"args": ["-tp", "2"]}, "args has -tp, which the chart sets by gpus"),
        ({"args": ["--tensor-parallel-size=2"]}, "args has --tensor-parallel-size, which the chart sets by gpus"),
        ({"args": ["--api-key-file", "keys"]}, "args has --api-key-file, which the chart sets by apiKeys"),
        ({"drain": None}, "missing property 'drain'"),
    ],
)
def test_a_wrong_value_is_refused_by_name(values: Object, message: str) -> None:
    with pytest.raises(helm_python.HelmError, match=re.escape(message)):
        render(values)


@pytest.mark.parametrize("release", ["1img", "img.v2"])
def test_a_release_whose_name_no_service_can_have_is_refused(release: str) -> None:
    with pytest.raises(helm_python.HelmError, match=f"the Service would be called {release}-llamagen-serve"):
        render({}, release)
    assert render({"fullnameOverride": "img"}, release)["Service"]["metadata"]["name"] == "img"


@pytest.mark.parametrize("text", ["123", "true", "null"])
def test_names_that_look_like_numbers_stay_strings(text: str) -> None:
    """Kubernetes refuses a number or a boolean where it expects a string."""
    keys = {"keys": ["key"], "secretKey": text}
    values = {
        "image": {"repository": text, "tag": text},
        "serviceAccount": {"name": text},
        "nameOverride": text,
        "fullnameOverride": "true",
        "priorityClassName": text,
        "runtimeClassName": text,
        "cache": {"claimName": text},
        "model": {"name": text, "claim": {"size": "1Gi", "storageClassName": text}, "download": {"hub": "org/m"}},
        "ingress": {"enabled": True, "className": text, "hosts": [text]},
        "networkPolicy": {"enabled": True, "fromNamespaces": [text]},
        "autoscaling": {"type": "hpa"},
    }
    for given in (values | {"apiKeys": keys}, values | {"apiKeys": {"existingSecret": text, "secretKey": text}}):
        objects = render(given)
        for item in objects.values():
            kubernetes_validate.validate(item, kubernetes_validate.latest_version(), strict=True)
        assert pod(objects)["serviceAccountName"] == objects["ServiceAccount"]["metadata"]["name"] == text
        assert pod(objects)["priorityClassName"] == text
    custom = {
        "autoscaling": {"type": "keda", "keda": {"prometheus": "http://p"}},
        "httpRoute": CASES["cuda"]["httpRoute"],
    }
    objects = render({"fullnameOverride": "true"} | custom)
    assert objects["ScaledObject"]["spec"]["scaleTargetRef"] == {"name": "true"}
    assert objects["HTTPRoute"]["spec"]["rules"][1]["backendRefs"][0]["name"] == "true"


@pytest.mark.parametrize(("gpus", "expected"), [(0, {}), (1, {"limits": {"nvidia.com/gpu": 1}})])
def test_resources_may_be_left_to_the_cluster(gpus: int, expected: Object) -> None:
    model = {"name": "m", "download": {"hub": "org/m", "resources": None}}
    objects = render({"resources": None, "gpus": gpus, "model": model, "podLabels": None, "podAnnotations": None})
    assert server(objects)["resources"] == expected
    assert pod(objects)["initContainers"][0]["resources"] == {}


def test_a_refused_key_is_not_shown() -> None:
    with pytest.raises(helm_python.HelmError, match=r"apiKeys.keys\[1\] must be printable ASCII") as refused:
        render({"apiKeys": {"keys": ["good", "my secret"]}})
    assert "secret" not in str(refused.value)


def paths(values: Object, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in values.items():
        yield (*prefix, key)
        if isinstance(value, dict):
            yield from paths(value, (*prefix, key))


def test_the_schema_has_every_value_and_no_other() -> None:
    """Objects without a list of properties, such as `affinity`, are Kubernetes' own and end the comparison."""
    schema = chart().schema
    schema = yaml.safe_load(schema) if isinstance(schema, str | bytes) else schema

    def known(node: Object, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
        node = schema["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node
        for key, child in node.get("properties", {}).items():
            yield (*prefix, key)
            yield from known(child, (*prefix, key))

    in_schema = set(known(schema)) - {("global",)}
    open_ended = {path for path in in_schema if not any(other[: len(path)] == path != other for other in in_schema)}
    in_values = {path for path in paths(VALUES) if not any(path[: len(end)] == end != path for end in open_ended)}
    resources = {path for path in in_schema if path[-2:-1] == ("resources",)}  # examples name some of them
    assert in_values | resources == in_schema


def test_every_value_is_explained() -> None:
    """A comment stands right above each value, or above a value that it belongs to."""
    explained: list[bool] = []  # for each level of the current value
    unexplained, comment = [], False
    for line in (CHART / "values.yaml").read_text().splitlines():
        if key := re.match(r"( *)([A-Za-z]+):(.*)", line):
            explained = [*explained[: len(key[1]) // 2], comment]
            if key[3] and not any(explained):
                unexplained.append(line)
        comment = line.strip().startswith("#")
    assert unexplained == []


# References


def test_selectors_find_the_servers_pods_and_no_others(objects: dict[str, Object]) -> None:
    labels = objects["Deployment"]["spec"]["template"]["metadata"]["labels"]
    selectors = [
        objects["Deployment"]["spec"]["selector"]["matchLabels"],
        objects["Service"]["spec"]["selector"],
        objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        *(spread["labelSelector"]["matchLabels"] for spread in pod(objects)["topologySpreadConstraints"]),
    ]
    if "NetworkPolicy" in objects:
        selectors.append(objects["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"])
    for selector in selectors:
        assert matches(selector, labels)
        assert not matches(selector, objects["Pod"]["metadata"]["labels"])
    if "ServiceMonitor" in objects:
        selector = objects["ServiceMonitor"]["spec"]["selector"]["matchLabels"]
        assert matches(selector, objects["Service"]["metadata"]["labels"])


def test_labels_of_the_user_never_replace_those_of_selectors() -> None:
    objects = render({"podLabels": {"team": "images", "app.kubernetes.io/name": "other"}})
    labels = objects["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert labels["team"] == "images"
    assert matches(objects["Service"]["spec"]["selector"], labels)


def test_labels_and_annotations_of_the_user_stand_beside_those_of_the_chart() -> None:
    """Each once: `render` refuses a key that an object has twice."""
    own = render(CASES["cuda"])
    mine = {"app.kubernetes.io/name": "other", "team": "images"}
    kinds = {"serviceMonitor": "ServiceMonitor", "prometheusRule": "PrometheusRule", "dashboard": "ConfigMap"}
    values = {
        "monitoring": {name: {"enabled": True, "labels": mine} for name in kinds},
        "podAnnotations": {"checksum/api-keys": "mine", "team": "images"},
    }
    objects = render(CASES["cuda"] | values)
    for kind in kinds.values():
        labels = objects[kind]["metadata"]["labels"]
        assert labels["team"] == "images"
        assert labels["app.kubernetes.io/name"] == own[kind]["metadata"]["labels"]["app.kubernetes.io/name"]
    before, after = (item["Deployment"]["spec"]["template"]["metadata"]["annotations"] for item in (own, objects))
    assert after == before | {"team": "images"}


def test_a_spread_of_the_user_may_have_a_selector_of_its_own() -> None:
    mine = {"topologyKey": "zone", "maxSkew": 2, "whenUnsatisfiable": "DoNotSchedule", "matchLabelKeys": ["team"]}
    selector = {"matchLabels": {"team": "images"}}
    objects = render({"topologySpreadConstraints": [mine | {"labelSelector": selector}]})
    (spread,) = pod(objects)["topologySpreadConstraints"]
    chosen = spread.pop("labelSelector")["matchLabels"]
    assert spread == mine
    assert chosen == objects["Service"]["spec"]["selector"] | selector["matchLabels"]


def test_what_a_pod_refers_to_exists(case: str, objects: dict[str, Object]) -> None:
    spec = pod(objects)
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    mounted = {
        mount["name"]
        for container in [*spec["containers"], *spec.get("initContainers", [])]
        for mount in container["volumeMounts"]
    }
    assert mounted == volumes.keys()
    claims = {v["persistentVolumeClaim"]["claimName"] for v in volumes.values() if "persistentVolumeClaim" in v}
    secrets = {v["secret"]["secretName"] for v in volumes.values() if "secret" in v}
    own = {kind: {item["metadata"]["name"]} for kind, item in objects.items()}
    given = {"llamagen-cache", "image-clients"} if case == "cuda" else set()  # the values name them
    assert claims | secrets == own.get("PersistentVolumeClaim", set()) | own.get("Secret", set()) | given
    assert {spec["serviceAccountName"]} == own["ServiceAccount"]


def test_no_container_requests_more_than_its_limit(objects: dict[str, Object]) -> None:
    """The one check here that Kubernetes makes and its schemas cannot. Memory is in whole Mi and Gi in these values."""

    def amount(text: str | int) -> float:
        number, unit = re.fullmatch(r"([\d.]+)(\D*)", str(text)).groups()  # type: ignore[union-attr]
        return float(number) * {"": 1, "m": 1e-3, "Mi": 2**20, "Gi": 2**30}[unit]

    for container in containers(objects):
        requests, limits = container["resources"]["requests"], container["resources"]["limits"]
        for name in requests.keys() & limits.keys():
            assert amount(requests[name]) <= amount(limits[name]), container["name"]
        assert "memory" in limits


# Rights


def test_containers_have_no_more_rights_than_they_need(objects: dict[str, Object]) -> None:
    for spec in (pod(objects), objects["Pod"]["spec"]):
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in containers(objects):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, container["name"]


def test_the_folders_that_the_image_writes_to_are_volumes(objects: dict[str, Object]) -> None:
    writable = {m["mountPath"] for m in server(objects)["volumeMounts"] if not m.get("readOnly")}
    assert writable == {"/tmp", "/cache", "/dev/shm"}


def test_openshift_may_choose_user_and_group() -> None:
    context = pod(render({"podSecurityContext": {"runAsUser": None, "fsGroup": None}}))["securityContext"]
    assert not {"runAsUser", "fsGroup"} & context.keys()
    assert context["runAsNonRoot"] is True


def test_a_server_without_a_download_reaches_nothing() -> None:
    policy = render({"networkPolicy": {"enabled": True}})["NetworkPolicy"]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["egress"] == []
    assert policy["ingress"][0]["from"] == [{"podSelector": {}}]  # its own namespace


def test_a_download_may_ask_for_names_and_use_https() -> None:
    policy = render(CASES["keda"])["NetworkPolicy"]["spec"]
    names, https, extra = ({(p["protocol"], p["port"]) for p in rule["ports"]} for rule in policy["egress"])
    assert names == {("UDP", 53), ("TCP", 53)}
    assert https == {("TCP", 443)}
    assert extra == {("TCP", 9000)}
    _, others = policy["ingress"][0]["from"]
    assert others["namespaceSelector"]["matchExpressions"][0]["values"] == ["ingress-nginx", "monitoring"]


# The pages

PAGES = [Path(__file__).parents[2] / "docs" / name for name in ("kubernetes.md", "air-gapped.md")]
BLOCKS = [
    yaml.safe_load(block)
    for page in PAGES
    for block in re.findall(r"^ *```yaml\n(.*?)^ *```", page.read_text(), flags=re.DOTALL | re.MULTILINE)
]
VOLUMES = re.findall(r"`model\.volume: (\{.*?\})` \|$", PAGES[0].read_text(), flags=re.MULTILINE)
EXAMPLES = [block for block in BLOCKS if "rules" not in block]  # that one is prometheus-adapter's
EXAMPLES += [{"model": {"name": "m", "volume": yaml.safe_load(volume)}} for volume in VOLUMES]


def test_the_pages_have_examples() -> None:
    assert len(BLOCKS) - 1 == len(EXAMPLES) - len(VOLUMES) >= 9
    assert len(VOLUMES) == 3


@pytest.mark.parametrize("values", EXAMPLES)
def test_an_example_of_the_pages_is_accepted(values: Object) -> None:
    objects = render(values)
    serve_flags(objects)
    for kind in objects.keys() - CUSTOM:
        kubernetes_validate.validate(objects[kind], kubernetes_validate.latest_version(), strict=True)


def test_values_of_the_pages_commands_exist() -> None:
    expressions = [word for page in PAGES for word in re.findall(r"--set (\S+)", page.read_text())]
    assert len(expressions) == 4
    for expression in expressions:
        values = helm_python.parse_set_string(expression)
        render(values)
        assert set(paths(values)) <= set(paths(VALUES))
