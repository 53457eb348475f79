"""Limits of control groups, read from files as Linux has them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from llamagen_server.engine import container, cpu

GIB = 2**30
NO_LIMIT_V1 = "9223372036854771712"


def write(root: Path, files: dict[str, object]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """100 GiB are available on the machine."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=100 * GIB))


V2 = {
    "proc/self/cgroup": "0::/pod/app",
    "sys/fs/cgroup/pod/app/memory.max": "max",
    "sys/fs/cgroup/pod/app/memory.current": 3 * GIB,
    "sys/fs/cgroup/pod/app/memory.stat": "anon 1\nactive_file 0\ninactive_file 0",
    "sys/fs/cgroup/pod/app/cpu.max": "150000 100000",
    "sys/fs/cgroup/pod/memory.max": 8 * GIB,
    "sys/fs/cgroup/pod/memory.current": 5 * GIB,
    "sys/fs/cgroup/pod/memory.stat": f"anon 1\nactive_file {GIB}\ninactive_file {GIB}\nslab 77",
    "sys/fs/cgroup/pod/cpu.max": "max 100000",
    "sys/fs/cgroup/cgroup.controllers": "cpu memory",
}
V2_NAMESPACE = {
    "proc/self/cgroup": "0::/",
    "sys/fs/cgroup/memory.max": 4 * GIB,
    "sys/fs/cgroup/memory.current": GIB,
    "sys/fs/cgroup/cpu.max": "400000 100000",
}
V1 = {
    "proc/self/cgroup": "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n0::/",
    "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes": 6 * GIB,
    "sys/fs/cgroup/memory/docker/abc/memory.usage_in_bytes": 4 * GIB,
    "sys/fs/cgroup/memory/docker/abc/memory.stat": f"cache 5\ninactive_file 9\ntotal_inactive_file {GIB}",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": NO_LIMIT_V1,
    "sys/fs/cgroup/memory/memory.usage_in_bytes": 50 * GIB,
    "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_quota_us": 250000,
    "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_period_us": 100000,
    "sys/fs/cgroup/cpu/cpu.cfs_quota_us": -1,
    "sys/fs/cgroup/cpu/cpu.cfs_period_us": 100000,
}
V1_INSIDE = {  # the path is the host's, the container's own group is mounted at the top
    "proc/self/cgroup": "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": 2 * GIB,
    "sys/fs/cgroup/memory/memory.usage_in_bytes": GIB // 2,
    "sys/fs/cgroup/cpu/cpu.cfs_quota_us": 50000,
    "sys/fs/cgroup/cpu/cpu.cfs_period_us": 100000,
}


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("files", "memory", "quota"),
    [
        (V2, 5 * GIB, 1.5),
        (V2_NAMESPACE, 3 * GIB, 4.0),
        (V1, 3 * GIB, 2.5),
        (V1_INSIDE, 3 * GIB // 2, 0.5),
        (V2 | {"sys/fs/cgroup/pod/memory.max": "max", "sys/fs/cgroup/pod/app/cpu.max": "max 100000"}, 100 * GIB, None),
        ({**V1, "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes": NO_LIMIT_V1}, 100 * GIB, 2.5),
        (V2_NAMESPACE | {"sys/fs/cgroup/memory.current": 9 * GIB}, 0, 4.0),
        (V2_NAMESPACE | {"sys/fs/cgroup/memory.max": "\xff?", "sys/fs/cgroup/cpu.max": "1 0"}, 100 * GIB, None),
        ({"proc/self/cgroup": "nonsense"}, 100 * GIB, None),
        ({}, 100 * GIB, None),
    ],
)
def test_limits_of_both_versions(tmp_path: Path, files: dict[str, object], memory: int, quota: float | None) -> None:
    root = write(tmp_path, files)
    assert container.available_memory(root) == memory
    assert container.cpu_quota(root) == quota


def test_this_machine_has_memory() -> None:
    assert 0 < container.available_memory() <= psutil.virtual_memory().total
    assert (container.cpu_quota() or 1) > 0


@pytest.mark.parametrize(("quota", "cores"), [(None, 8), (2.5, 2), (0.5, 1), (64.0, 8)])
def test_a_quota_limits_the_cores(monkeypatch: pytest.MonkeyPatch, quota: float | None, cores: int) -> None:
    monkeypatch.setattr(cpu.os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(container, "cpu_quota", lambda: quota)
    assert cpu.cores() == cores
