"""The chart's objects for some sets of values, rendered by Helm's own engine."""

from __future__ import annotations

import argparse
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from helm_python.chart import Chart

CHART = Path(__file__).parents[1] / "helm/llamagen-serve"
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
Object = dict[str, Any]


def read_values(name: str) -> Object:
    return yaml.safe_load((CHART / "ci" / f"values-{name}.yaml").read_text())


CASES: dict[str, Object] = {
    "default": {},
    "cuda": read_values("cuda"),
    "keda": read_values("autoscaling"),
    "hpa": (values := read_values("autoscaling")) | {"autoscaling": values["autoscaling"] | {"type": "hpa"}},
}


@cache
def chart() -> Chart:
    return Chart.load(CHART)


class UniqueKeys(yaml.SafeLoader):
    """Refuses a key that a mapping has twice: Kubernetes' own tools differ in what they make of it."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Object:
        keys = [key.value for key, _ in node.value]
        assert len(keys) == len(set(keys)), keys
        return super().construct_mapping(node, deep)


def render(values: Object, release: str = "images") -> dict[str, Object]:
    """Objects by their kind; the chart has at most one of each."""
    files = chart().render(values, name=release, namespace="prod")
    objects = [yaml.load(text, UniqueKeys) for name, text in files.items() if name.endswith(".yaml")]
    by_kind = {item["kind"]: item for item in objects if item}
    assert len(by_kind) == sum(item is not None for item in objects)
    return by_kind


def pod(objects: dict[str, Object]) -> Object:
    return objects["Deployment"]["spec"]["template"]["spec"]


def server(objects: dict[str, Object]) -> Object:
    (container,) = pod(objects)["containers"]
    return container


def containers(objects: dict[str, Object]) -> list[Object]:
    """Those of the server's pods and of the test's."""
    spec = pod(objects)
    return [*spec["containers"], *spec.get("initContainers", []), *objects["Pod"]["spec"]["containers"]]


@cache
def serve_parser() -> argparse.ArgumentParser:
    from llamagen_server.cli import serve
    from vllm_llamagen.vllm_compat import FlexibleArgumentParser

    parser = FlexibleArgumentParser()
    serve.add_arguments(parser)
    return parser


def serve_flags(objects: dict[str, Object]) -> argparse.Namespace:
    """The arguments of the server, as `llamagen serve` reads them."""
    command, *words = server(objects)["args"]
    assert command == "serve"
    return serve_parser().parse_args(words)


def matches(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return bool(selector) and selector.items() <= labels.items()
