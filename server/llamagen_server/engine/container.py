"""Memory and cores that a container leaves to this process: Linux control groups, versions 1 and 2.

Docker, Kubernetes and systemd limit processes by control groups. psutil and ``os`` see the whole machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil

ROOT = Path("/")

MEMORY_FILES = {
    2: ("memory.max", "memory.current", ("active_file", "inactive_file")),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_active_file", "total_inactive_file")),
}
"""Version -> files with limit and usage, and the entries of ``memory.stat`` that the kernel frees when it needs to."""


def available_memory(root: Path = ROOT) -> int:
    """Returns the bytes that this process can still get: those of the machine, or of its container if fewer."""
    machine = psutil.virtual_memory().available
    container = container_memory(root)
    return machine if container is None else min(machine, container)


def container_memory(root: Path = ROOT) -> int | None:
    """Returns the bytes that the limits of this process's control groups leave; None without a limit.

    Cached files count as free, as in psutil's ``available``: the kernel drops them for memory of processes.
    """
    left = []
    for version, (limit_file, usage_file, cached) in MEMORY_FILES.items():
        for group in _groups(root, version, "memory"):
            limit, usage = _number(group / limit_file), _number(group / usage_file)
            if limit is not None and usage is not None:
                stat = _table(group / "memory.stat")
                left.append(max(0, limit - usage + sum(stat.get(name, 0) for name in cached)))
    return min(left, default=None)


def cpu_quota(root: Path = ROOT) -> float | None:
    """Returns the cores that the quotas of this process's control groups amount to, such as 1.5; None without one."""
    quotas = [_text(group / "cpu.max").split() for group in _groups(root, 2, "cpu")]
    quotas += [
        [_text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us")] for group in _groups(root, 1, "cpu")
    ]
    limited = [pair for pair in quotas if len(pair) == 2 and all(part.isdecimal() and int(part) for part in pair)]
    return min((int(quota) / int(period) for quota, period in limited), default=None)


def _groups(root: Path, version: int, controller: str) -> Iterator[Path]:
    """Yields the folders of this process's control group and of those around it, innermost first.

    A container may see the path that its host sees, while its own group is mounted at the top; folders that are not
    there are left to the caller.
    """
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if version == 2 and (number, controllers) == ("0", ""):
            top = root / "sys/fs/cgroup"
        elif version == 1 and controller in controllers.split(","):
            top = root / "sys/fs/cgroup" / controller
        else:
            continue
        group = top / path.strip("/")
        yield group
        while group != top and top in group.parents:
            group = group.parent
            yield group


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isdecimal() else None


def _table(path: Path) -> dict[str, int]:
    rows = [line.split() for line in _text(path).splitlines()]
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdecimal()}
