"""The parts of the report: what each runs, and for how long at most."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from scripts.gpu_report.parity import read_junit

LIMIT_S = 480
"""Time limit of a part. Machines that are lent by the call often end a call after ten minutes."""

TESTS = "tests/vllm_llamagen"
NOT_COMPILED = ("decode_window", "servers", "gumbel_kernel")
"""Parts of their own, and a test of what stands in for a GPU."""

Result = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """A process that measures something and writes a file."""

    name: str
    command: tuple[str, ...]
    """Arguments of ``python``, without the file of the result."""
    result_flag: str = "--save-result"
    """Flag that takes the file of the result; it is appended to the command."""
    read: Callable[[str], Result] = json.loads
    """Reads the text of that file."""
    variables: Mapping[str, str] = field(default_factory=dict)
    limit_s: float = LIMIT_S

    @property
    def shown(self) -> str:
        """The command as a line of a shell."""
        return shlex.join([*(f"{name}={value}" for name, value in self.variables.items()), "python", *self.command])


@dataclass(frozen=True)
class Scale:
    """Shapes and counts of all parts."""

    parity: Mapping[str, tuple[str, ...]]
    """Arguments of pytest, by the name of the part."""
    sizes: tuple[str, ...]
    table: Mapping[str, tuple[tuple[int, ...], int]]
    """Batch sizes of the paper's table and the timed runs of each, by what follows the size in the part's name."""
    image_size: int
    windows: tuple[int, ...]
    window_size: str
    """Network of which the rows of a window are timed."""
    window_batches: tuple[int, ...]
    decode: tuple[str, ...]
    load: tuple[str, ...]
    """Flags of ``llamagen bench serve``."""
    engine: tuple[str, ...] = ()
    """More flags of every engine."""


FULL = Scale(
    parity={
        "v1": (TESTS,),
        "v2": (TESTS, f"--ignore={TESTS}/v2"),
        # Engines and servers that start take most of the time, so the files that start many are parts of their own.
        "windows": (f"{TESTS}/v2/test_decode_window.py",),
        "servers": (f"{TESTS}/v2/test_servers.py",),
        "compiled": (f"{TESTS}/v2", *(f"--ignore={TESTS}/v2/test_{name}.py" for name in NOT_COMPILED)),
    },
    sizes=("B", "L", "XL", "XXL", "3B"),
    # Estimates for an H200, from counts of kernels and bytes. The baseline decides: up to 32 images it waits for
    # Python, which launches some 70 kernels a layer, so that a batch of XXL (48 layers, 576 steps) takes 12 to 20 s.
    # Three rounds at three batch sizes, the engine's third of that and two minutes for its start are five minutes.
    # With 128 images a step reads and writes the whole cache several times, in float32: 400 GB for XXL and 3B, so a
    # batch takes a minute. It is a part of its own, with one timed run, which is a mean over 576 steps anyway.
    table={"": ((1, 8, 32), 2), "-128": ((128,), 1)},
    image_size=384,
    windows=(0, 4, 8, 16),
    window_size="XL",
    window_batches=(1, 8, 32),
    decode=("--image-size", "384", "--batch", "1", "8", "--images", "64"),
    load=("--max-concurrency", "1", "2", "4", "8", "16", "32", "64", "128", "256", "--duration", "15"),
)

TINY = Scale(
    parity={
        "v1": (f"{TESTS}/test_parity.py::test_class_model_tokens",),
        "v2": (f"{TESTS}/test_parity.py::test_class_model_tokens",),
        "windows": (f"{TESTS}/v2/test_decode_window.py", "-k", "last_bit and 4"),
    },
    sizes=("B",),
    table={"": ((2,), 1)},
    image_size=32,
    windows=(0, 4),
    window_size="B",
    window_batches=(1,),
    decode=("--image-size", "32", "--batch", "1", "2", "--images", "2"),
    load=("--max-concurrency", "1", "2", "--num-prompts", "2", "--num-warmups", "0"),
    engine=("--enforce-eager",),
)
"""For tests on a CPU. Windows need vLLM's V2 model runner, and so `make v2-test`'s variables."""


def all_parts(scale: Scale) -> list[Part]:
    """Returns the parts in the order in which they run: parity before speed."""
    parity = [_parity(name, tests) for name, tests in scale.parity.items()]
    table = [
        _engine(
            f"table-{size}{suffix}",
            *("--size", size, "--image-size", scale.image_size, "--batch", *batches, "--cfg-scale", 4),
            *("--top-k", 2000, "--baseline", "eager", "--repeat", repeat, *scale.engine),
        )
        for size in scale.sizes
        for suffix, (batches, repeat) in scale.table.items()
    ]
    windows = [
        _engine(f"windows-{name}-{window}", *flags, "--batch", *scale.window_batches, "--decode-window", window)
        for name, flags in {
            "demo": ("--model", "--cfg-scale", 1.5, "--top-k", 0, "--repeat", 3, *scale.engine),
            scale.window_size: (
                *("--size", scale.window_size, "--image-size", scale.image_size, "--cfg-scale", 4, "--top-k", 2000),
                *("--repeat", 1, *scale.engine),
            ),
        }.items()
        for window in scale.windows
    ]
    decode = Part("decode", ("-m", "scripts.gpu_report.decode", *scale.decode), limit_s=240)
    server = Part("server", ("-m", "scripts.gpu_report.server", *scale.engine, *scale.load))
    return [*parity, *table, *windows, decode, server]


def _parity(name: str, tests: tuple[str, ...]) -> Part:
    runner = "0" if name == "v1" else "1"
    return Part(
        f"parity-{name}",
        ("-m", "pytest", *tests, "-m", "engine"),
        result_flag="--junitxml",
        read=read_junit,
        variables={"VLLM_USE_V2_MODEL_RUNNER": runner},
    )


def _engine(name: str, *flags: object) -> Part:
    return Part(name, ("-m", "llamagen_server", "bench", "engine", *map(str, flags)))
