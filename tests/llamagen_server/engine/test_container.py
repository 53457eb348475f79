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
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=100 * GIB, total=128 * GIB))


MOUNT_V2 = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate"


def mounts_v1(top: str) -> str:
    """Both controllers, with this control group at the top."""
    return (
        f"31 30 0:27 {top} /sys/fs/cgroup/memory rw,relatime shared:15 - cgroup cgroup rw,memory\n"
        f"32 30 0:28 {top} /sys/fs/cgroup/cpu,cpuacct ro,relatime - cgroup cgroup rw,cpu,cpuacct"
    )


V2 = {
    "proc/self/mountinfo": f"23 1 8:1 / / rw - ext4 /dev/vda rw\n{MOUNT_V2}",
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
    "proc/self/mountinfo": MOUNT_V2,
    "proc/self/cgroup": "0::/",
    "sys/fs/cgroup/memory.max": 4 * GIB,
    "sys/fs/cgroup/memory.current": GIB,
    "sys/fs/cgroup/cpu.max": "400000 100000",
}
V1 = {
    "proc/self/mountinfo": mounts_v1("/"),
    "proc/self/cgroup": "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n0::/",
    "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes": 6 * GIB,
    "sys/fs/cgroup/memory/docker/abc/memory.usage_in_bytes": 4 * GIB,
    "sys/fs/cgroup/memory/docker/abc/memory.stat": f"cache 5\ninactive_file 9\ntotal_inactive_file {GIB}",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": NO_LIMIT_V1,
    "sys/fs/cgroup/memory/memory.usage_in_bytes": 50 * GIB,
    "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us": 250000,
    "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us": 100000,
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": -1,
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": 100000,
}
V1_INSIDE = {  # the path is the host's, the container's own group is mounted at the top
    "proc/self/mountinfo": mounts_v1("/docker/abc"),
    "proc/self/cgroup": "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": 2 * GIB,
    "sys/fs/cgroup/memory/memory.usage_in_bytes": GIB // 2,
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": 50000,
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": 100000,
}
NESTED_V1 = V1_INSIDE | {  # a group that an init process inside the container has made
    "proc/self/cgroup": "4:memory:/docker/abc/init\n3:cpu,cpuacct:/docker/abc/init",
    "sys/fs/cgroup/memory/init/memory.limit_in_bytes": GIB,
    "sys/fs/cgroup/memory/init/memory.usage_in_bytes": GIB // 4,
}
HYBRID = V1 | {  # systemd's own tree is version 2, the controllers are version 1
    "proc/self/mountinfo": f"{mounts_v1('/')}\n{MOUNT_V2.replace('cgroup rw', 'cgroup/unified rw')}",
    "proc/self/cgroup": f"{V1['proc/self/cgroup']}system.slice/docker.service",
    "sys/fs/cgroup/unified/system.slice/docker.service/cgroup.procs": 1,
}
OUTSIDE = {  # the process was moved into the container's namespace from outside
    **V2_NAMESPACE,
    "proc/self/cgroup": "0::/../other",
    "sys/fs/other/memory.max": 1,
    "sys/fs/other/memory.current": 1,
}
HIGH = V2_NAMESPACE | {"sys/fs/cgroup/memory.high": 2 * GIB}
HIGH_ONLY = HIGH | {"sys/fs/cgroup/memory.max": "max"}
SWAP = V2_NAMESPACE | {"sys/fs/cgroup/memory.swap.max": 64 * GIB}


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("files", "memory", "quota"),
    [
        (V2, 5 * GIB, 1.5),
        (V2_NAMESPACE, 3 * GIB, 4.0),
        (V1, 3 * GIB, 2.5),
        (V1_INSIDE, 3 * GIB // 2, 0.5),
        (NESTED_V1, 3 * GIB // 4, 0.5),
        (HYBRID, 3 * GIB, 2.5),
        (OUTSIDE, 3 * GIB, 4.0),
        (HIGH, GIB, 4.0),
        (HIGH_ONLY, GIB, 4.0),
        (SWAP, 3 * GIB, 4.0),
        (V2 | {"sys/fs/cgroup/pod/memory.max": "max", "sys/fs/cgroup/pod/app/cpu.max": "max 100000"}, 100 * GIB, None),
        ({**V1, "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes": NO_LIMIT_V1}, 100 * GIB, 2.5),
        (V2_NAMESPACE | {"sys/fs/cgroup/memory.current": 9 * GIB}, 0, 4.0),
        (V2_NAMESPACE | {"sys/fs/cgroup/memory.max": "\xff?", "sys/fs/cgroup/cpu.max": "1 0"}, 100 * GIB, None),
        ({"proc/self/cgroup": "nonsense", "proc/self/mountinfo": "nonsense"}, 100 * GIB, None),
        ({**V2, "proc/self/mountinfo": "30 24 - cgroup2\n - "}, 100 * GIB, None),
        ({}, 100 * GIB, None),
    ],
)
def test_limits_of_both_versions(tmp_path: Path, files: dict[str, object], memory: int, quota: float | None) -> None:
    root = write(tmp_path, files)
    assert container.available_memory(root) == memory
    assert container.cpu_quota(root) == quota


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("files", "limited"), [(V2, True), (V1, True), (V2 | {"sys/fs/cgroup/pod/memory.max": "max"}, False), ({}, False)]
)
def test_whether_memory_has_a_limit(tmp_path: Path, files: dict[str, object], limited: bool) -> None:
    assert container.has_memory_limit(write(tmp_path, files)) == limited


def test_no_limit_of_version_1_is_no_limit(tmp_path: Path) -> None:
    limit = {"sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes": NO_LIMIT_V1}
    assert not container.has_memory_limit(write(tmp_path, V1 | limit))


def test_this_machine_has_memory() -> None:
    assert 0 < container.available_memory() <= psutil.virtual_memory().total
    assert (container.cpu_quota() or 1) > 0


def test_shared_memory(tmp_path: Path) -> None:
    assert container.shared_memory(tmp_path / "nothing") is None
    assert (container.shared_memory(tmp_path) or 0) > 0


@pytest.mark.parametrize(("quota", "cores"), [(None, 8), (2.5, 2), (0.5, 1), (64.0, 8)])
def test_a_quota_limits_the_cores(monkeypatch: pytest.MonkeyPatch, quota: float | None, cores: int) -> None:
    monkeypatch.setattr(cpu.os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(container, "cpu_quota", lambda: quota)
    assert cpu.cores() == cores
