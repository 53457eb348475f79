"""The result of a parity part: counts of tests in pytest's JUnit file."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree


def read_junit(text: str) -> dict[str, Any]:
    """Returns the number of tests that passed, failed and were skipped, and the names of those that failed."""
    cases = list(ElementTree.fromstring(text).iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = sum(case.find("skipped") is not None for case in cases)
    return {
        "passed": len(cases) - len(failed) - skipped,
        "failed": len(failed),
        "skipped": skipped,
        "failed_tests": [f"{case.get('classname')}.{case.get('name')}" for case in failed],
    }
