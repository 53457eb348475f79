"""Memory and cores that a container leaves to this process: Linux control groups, versions 1 and 2; shared memory.

Docker, Kubernetes and systemd limit processes by control groups. psutil and ``os`` see the whole machine.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil

ROOT = Path("/")
SHARED_MEMORY = Path("/dev/shm")

MEMORY_FILES = {
    2: (("memory.max", "memory.high"), "memory.current", ("active_file", "inactive_file")),
    1: (("memory.limit_in_bytes",), "memory.usage_in_bytes", ("total_active_file", "total_inactive_file")),
}
"""Version -> files with limits and usage, and the entries of ``memory.stat`` that the kernel frees when it needs to.
Above ``memory.high`` processes are slowed down until they hardly run."""


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
    for version, (limit_files, usage_file, cached) in MEMORY_FILES.items():
        for group in _groups(root, version, "memory"):
            limits = [limit for name in limit_files if (limit := _number(group / name)) is not None]
            usage = _number(group / usage_file)
            if limits and usage is not None:
                stat = _table(group / "memory.stat")
                left.append(max(0, min(limits) - usage + sum(stat.get(name, 0) for name in cached)))
    return min(left, default=None)


def has_memory_limit(root: Path = ROOT) -> bool:
    """Whether this process's control groups leave less memory than the machine has."""
    left = container_memory(root)
    return left is not None and left < psutil.virtual_memory().total


def cpu_quota(root: Path = ROOT) -> float | None:
    """Returns the cores that the quotas of this process's control groups amount to, such as 1.5; None without one."""
    quotas = [_text(group / "cpu.max").split() for group in _groups(root, 2, "cpu")]
    quotas += [
        [_text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us")] for group in _groups(root, 1, "cpu")
    ]
    limited = [pair for pair in quotas if len(pair) == 2 and all(part.isdecimal() and int(part) for part in pair)]
    return min((int(quota) / int(period) for quota, period in limited), default=None)


def shared_memory(folder: Path = SHARED_MEMORY) -> int | None:
    """Returns the bytes that processes can still share; Docker allows 64 MiB in all. None if this cannot be told."""
    return shutil.disk_usage(folder).free if folder.is_dir() else None


def _groups(root: Path, version: int, controller: str) -> Iterator[Path]:
    """Yields the folders of this process's control group and of those around it, as far as they are visible.

    In a container the top of the tree is often the container's own group, whatever path its processes see.
    """
    own = _own_group(root, version, controller)
    for top, folder in _mounts(root, version, controller):
        inside = Path(own.removeprefix(top).strip("/") if f"{own}/".startswith(f"{top}/") else "")
        yield from (folder / part for part in (inside, *inside.parents) if ".." not in part.parts)


def _own_group(root: Path, version: int, controller: str) -> str:
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if (version == 2 and number == "0") or (version == 1 and controller in controllers.split(",")):
            return path
    return ""


def _mounts(root: Path, version: int, controller: str) -> Iterator[tuple[str, Path]]:
    """Yields the group at the top of each tree of control groups, and the folder where that is mounted (man 5 proc)."""
    for line in _text(root / "proc/self/mountinfo").splitlines():
        mount, _, filesystem = line.partition(" - ")
        fields, (kind, *_, options) = mount.split(), [*filesystem.split(), "", ""][:3]
        is_tree = kind == "cgroup2" if version == 2 else kind == "cgroup" and controller in options.split(",")
        if is_tree and len(fields) > 4:
            yield fields[3].rstrip("/"), root / fields[4].lstrip("/")


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
