"""What torch.compile needs on a CPU: a C++ compiler that works, and a folder for what it compiles.

Both may be there and not work: a compiler without its libraries, a folder mounted ``noexec``. The engine would not
start then, after hundreds of lines of log. So a small program is compiled and loaded first, which takes 0.2 s.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from functools import cache
from pathlib import Path
from zlib import crc32

import torch

from llamagen_server.core.cache_home import cache_home
from llamagen_server.engine import folders

CACHE = "TORCHINDUCTOR_CACHE_DIR"
"""Variable with the folder of torch.compile's cache."""
PRECOMPILED_HEADERS = "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS"

PROGRAM = """\
#include <Python.h>
#include <cmath>
#include <omp.h>
extern "C" int answer() { return 2 + std::sqrt(1600.0) * (omp_get_max_threads() > 0); }
"""
FLAGS = ("-shared", "-fPIC", "-std=c++20", "-fopenmp")
"""Those of torch's own commands (``torch/_inductor/cpp_builder.py``) that a compiler or its libraries may lack."""
LOAD = "import ctypes, sys; sys.exit(ctypes.CDLL(sys.argv[1]).answer() != 42)"
TIMEOUT = 30.0
"""Seconds for the compiler, and for loading."""
CAUSE = re.compile(r"^(?!collect2:).*(error|cannot)", re.I)
"""A line of a compiler, a linker or Python that states a cause; ``collect2`` only says that there is one above."""
MAX_REASON = 200
"""Characters of a reason; a broken compiler may print anything."""


class CompilationError(Exception):
    """torch.compile does not work on this machine; the message states why, in one line."""


class _FolderError(CompilationError):
    """The folder is why; another one may do."""


def environment() -> dict[str, str]:
    """Returns the variables with which torch.compile works here. None that the user has set is among them.

    Raises:
        CompilationError: it does not work.
    """
    compiler = _compiler()
    reasons = []
    for folder in _cache_folders():
        try:
            _compile_and_load(compiler, folder)
        except _FolderError as error:
            reasons.append(error)
            continue
        found = {} if _chosen_folder() else {CACHE: str(folder)}
        if PRECOMPILED_HEADERS not in os.environ and _is_split(tempfile.gettempdir()):
            found[PRECOMPILED_HEADERS] = "0"  # they are among the temporary files
        return found
    raise reasons[0]


def _compiler() -> str:
    """Returns the path of the compiler that torch calls."""
    name = os.environ.get("CXX", "g++")
    compiler = shutil.which(name)
    if not compiler:
        raise CompilationError(f"C++ compiler {name} not found")
    if not shutil.which("openssl"):  # torch calls it to hash the headers that it precompiles
        raise CompilationError("command openssl not found")
    for path in (name, str(Path(torch.__file__).parent)):
        if _is_split(path):
            raise CompilationError(f"torch.compile takes no path with a space, such as {path}")
    return compiler


def _cache_folders() -> list[Path]:
    """Returns the folders for torch.compile's cache, the best one first: the user's, ours, torch's own.

    Ours has one folder for each kind of CPU. torch finds a compiled graph again whatever the CPU's vector units are.
    Code that was generated for other units does not compile, or computes garbage, where machines share a home
    directory or a volume.
    """
    if chosen := _chosen_folder():
        return [Path(chosen)]
    units = sorted(name for name, found in torch.cpu.get_capabilities().items() if found is True)
    kind = f"{torch.backends.cpu.get_cpu_capability().lower()}-{crc32(' '.join(units).encode()):08x}"
    home = cache_home()
    ours = [home / "llamagen" / "compiled" / kind] if home else []
    return [*ours, folders.temporary_cache()]


def _chosen_folder() -> str | None:
    """Returns the folder that the user has chosen. torch sets its own one when it is imported."""
    chosen = os.environ.get(CACHE)
    return None if chosen == str(folders.temporary_cache()) else chosen


@cache
def _compile_and_load(compiler: str, folder: Path) -> None:
    if _is_split(str(folder)):
        raise _FolderError(f"torch.compile takes no folder with a space in its name, such as {folder}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix="trial-") as trial:
            Path(trial, "trial.cpp").write_text(PROGRAM)
            headers = sysconfig.get_paths()["include"]
            command = [compiler, "trial.cpp", *FLAGS, f"-I{headers}", "-o", "trial.so", "-lgomp"]
            if reason := _failure(command, trial):
                raise CompilationError(f"the C++ compiler {compiler} does not work ({reason})")
            if reason := _failure([sys.executable, "-I", "-S", "-c", LOAD, f"{trial}/trial.so"], trial):
                if os.statvfs(folder).f_flag & os.ST_NOEXEC:
                    raise _FolderError(f"{folder} is mounted noexec, so what is compiled cannot be loaded")
                raise _FolderError(f"what {compiler} compiles in {folder} cannot be loaded ({reason})")
    except OSError as error:
        raise _FolderError(f"{folder} cannot be written ({error.strerror})") from None


def _failure(command: list[str], folder: str) -> str | None:
    """Runs a command. Returns why it failed, in one line, or None."""
    with tempfile.TemporaryFile(dir=folder) as output:
        try:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, "LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        except OSError as error:
            return error.strerror
        try:
            code = process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # a wrapper's children too
            process.wait()
            return f"it did not end within {TIMEOUT:g} s"
        output.seek(0)
        return _reason(output.read(2**16).decode(errors="replace"), code) if code else None


def _reason(output: str, code: int) -> str:
    """Returns the line of a failed command's output that states why it failed."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    causes = [line for line in lines if CAUSE.search(line)]
    line = [*causes, *lines, f"signal {-code}" if code < 0 else f"exit status {code}"][0]
    return "".join(character if character.isprintable() else "?" for character in line[:MAX_REASON])


def _is_split(path: str) -> bool:
    """Whether torch's command lines, which it does not quote, fall apart at a space or a quote of this path."""
    try:
        return shlex.split(path) != [path]
    except ValueError:  # half of a pair of quotes
        return True
