"""Our metrics, and the page that documents them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from prometheus_client import Counter
from prometheus_client.metrics import MetricWrapperBase

from llamagen_server.core import metrics

ROW = re.compile(r"^\| `(llamagen_\w+)` \| (\w+) \|(.*?)\|(.*?)\|(.*?)\|$", re.M)
"""A metric of the page: name, type, labels, meaning, use."""


def page(root: Path) -> str:
    return (root / "docs" / "metrics.md").read_text()


def exported() -> dict[str, MetricWrapperBase]:
    """The metrics by the names that Prometheus sees."""
    found = [metric for metric in vars(metrics).values() if isinstance(metric, MetricWrapperBase)]
    return {metric._name + "_total" * isinstance(metric, Counter): metric for metric in found}


def documented_labels(cell: str) -> dict[str, set[str]]:
    """The cell "`a`: `x`, `y`" becomes {"a": {"x", "y"}}."""
    name, *values = re.findall(r"`(\w+)`", cell) or [""]
    return {name: set(values)} if name else {}


def test_the_page_has_every_metric_and_no_other(root: Path) -> None:
    names = [name for name, *_ in ROW.findall(page(root))]
    assert len(names) == len(set(names))
    assert set(names) == set(exported())
    assert set(re.findall(r"llamagen_\w+", page(root))) == set(names)


def test_type_and_labels_are_those_of_the_code(root: Path) -> None:
    for name, kind, labels, meaning, use in ROW.findall(page(root)):
        metric = exported()[name]
        assert kind == metric._type, name
        assert tuple(documented_labels(labels)) == metric._labelnames, name
        assert meaning.strip(), name
        assert use.strip(), name


def test_documented_label_values_exist_from_the_start(root: Path) -> None:
    """In a process of their own: here other tests have added some."""
    code = (
        "from llamagen_server.core import metrics\n"
        "from prometheus_client import REGISTRY\n"
        "for family in REGISTRY.collect():\n"
        "    for sample in family.samples:\n"
        "        if family.name.startswith('llamagen_') and not sample.name.endswith('_created'):\n"
        "            for label in sample.labels.items():\n"
        "                print(family.name + '_total' * (family.type == 'counter'), *label)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    found: dict[str, set[str]] = {}
    for name, label, value in (line.split(" ") for line in run.stdout.splitlines()):
        if label != "le":
            found.setdefault(name, set()).add(value)
    documented = {name: documented_labels(labels) for name, _, labels, *_ in ROW.findall(page(root))}
    assert found == {name: values for name, labels in documented.items() for values in labels.values() if values}


async def test_tasks_are_counted_when_they_are_read() -> None:
    [family] = metrics.TASKS.collect()
    assert family.samples[0].value >= 1


def test_without_an_event_loop_there_are_no_tasks() -> None:
    [family] = metrics.TASKS.collect()
    assert family.samples[0].value == 0
