"""The trial compilation: compilers that are broken in some way, and folders in which nothing can be compiled."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tests.helpers.waiting import has_ended

from llamagen_server.engine import compilation, folders
from llamagen_server.engine.compilation import CACHE, PRECOMPILED_HEADERS, CompilationError

needs_compiler = pytest.mark.skipif(
    not (shutil.which("g++") and shutil.which("openssl")), reason="g++ or openssl is not installed"
)

Compiler = Callable[[str], None]


@pytest.fixture(autouse=True)
def cache_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The user has chosen nothing, and has a folder for caches."""
    for name in (CACHE, PRECOMPILED_HEADERS, "CXX"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    return home


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Compiler:
    """``compiler(script)``: a compiler that is this shell script."""

    def make(script: str) -> None:
        path = tmp_path / "wrapper"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("CXX", str(path))

    return make


def obstacle() -> str:
    with pytest.raises(CompilationError) as error:
        compilation.environment()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_missing_programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert obstacle() == "C++ compiler no-such-compiler not found"
    monkeypatch.delenv("CXX")
    (tmp_path / "g++").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert obstacle() == "command openssl not found"


@needs_compiler
def test_a_compiler_that_works(cache_home: Path) -> None:
    start = time.monotonic()
    found = compilation.environment()
    assert time.monotonic() - start < 10
    folder = Path(found.pop(CACHE))
    assert folder.parent == cache_home / "llamagen" / "compiled"
    assert found == {}
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("exit 1", "exit status 1"),
        ("kill -SEGV $$", "signal 11"),
        ("echo '\033[31mgarbage' >&2; exit 3", "?[31mgarbage"),
        ("printf 'x%.0s' $(seq 999); exit 1", "x" * 200),
        ("echo 'warning: odd'; echo 'fatal error: no room'; exit 1", "fatal error: no room"),
        ('exec g++ "$@" -nostdinc', "fatal error: "),
        ('exec g++ "$@" -lno-such-library', "cannot find -lno-such-library"),
        ('exec g++ "$@" -std=c++99', "error: unrecognized command-line option '-std=c++99'"),
    ],
)
@needs_compiler
def test_a_compiler_that_fails(script: str, reason: str, compiler: Compiler, tmp_path: Path) -> None:
    compiler(script)
    found = obstacle()
    assert found.startswith(f"the C++ compiler {tmp_path}/wrapper does not work (")
    assert reason in found


@needs_compiler
def test_a_file_that_is_no_program(compiler: Compiler, tmp_path: Path) -> None:
    compiler("")
    (tmp_path / "wrapper").write_bytes(b"\x7fELF\0garbage")
    assert obstacle().endswith("/wrapper does not work (Exec format error)")


@needs_compiler
def test_a_compiler_that_hangs(compiler: Compiler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler(f"sleep 600 & echo $! > {tmp_path}/child; wait")
    monkeypatch.setattr(compilation, "TIMEOUT", 1)
    assert obstacle().endswith("/wrapper does not work (it did not end within 1 s)")
    child, deadline = int((tmp_path / "child").read_text()), time.monotonic() + 10
    while not has_ended(child):  # a killed process takes a moment
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("script", ["true", "echo garbage > trial.so", 'exec g++ "$@" -Danswer=other'])
@needs_compiler
def test_a_program_that_cannot_be_loaded(script: str, compiler: Compiler, tmp_path: Path) -> None:
    compiler(script)
    found = obstacle()
    assert found.startswith(f"what {tmp_path}/wrapper compiles in {tmp_path}/cache/llamagen/compiled/")
    assert " cannot be loaded (" in found


@needs_compiler
def test_a_folder_without_programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Loading fails as on a file system that is mounted noexec."""
    monkeypatch.setenv(CACHE, str(tmp_path / "mine"))
    monkeypatch.setattr(compilation, "LOAD", "import sys; sys.exit('OSError: failed to map segment')")
    assert "/wrapper" not in obstacle()
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=os.ST_NOEXEC))
    assert obstacle() == f"{tmp_path}/mine is mounted noexec, so what is compiled cannot be loaded"


@needs_compiler
def test_another_folder_is_taken_where_ours_does_not_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    other = tmp_path / "other"
    monkeypatch.setattr(folders, "temporary_cache", lambda: other)
    for home in (tmp_path / "file", tmp_path / "a space", Path("/proc/self/nothing"), Path("relative")):
        monkeypatch.setenv("XDG_CACHE_HOME", str(home))
        assert compilation.environment() == {CACHE: str(other)}
    monkeypatch.setattr(folders, "temporary_cache", lambda: tmp_path / "other space")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a space"))
    assert obstacle().startswith(f"torch.compile takes no folder with a space in its name, such as {tmp_path}/a space/")


@needs_compiler
def test_the_users_folder_is_the_only_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(CACHE, str(tmp_path / "mine"))
    assert compilation.environment() == {}
    (tmp_path / "file").touch()
    monkeypatch.setenv(CACHE, str(tmp_path / "file" / "mine"))
    assert obstacle() == f"{tmp_path}/file/mine cannot be written (Not a directory)"


@needs_compiler
def test_temporary_files_below_a_space_have_no_precompiled_headers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    temporary = tmp_path / "a space"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    assert compilation.environment()[PRECOMPILED_HEADERS] == "0"
    monkeypatch.setenv(PRECOMPILED_HEADERS, "1")
    assert PRECOMPILED_HEADERS not in compilation.environment()


@needs_compiler
def test_paths_of_programs_with_a_space(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "a space" / "g++"
    path.parent.mkdir()
    path.touch(mode=0o755)
    monkeypatch.setenv("CXX", str(path))
    assert obstacle() == f"torch.compile takes no path with a space, such as {path}"


@needs_compiler
def test_other_vector_units_have_a_cache_of_their_own(monkeypatch: pytest.MonkeyPatch, cache_home: Path) -> None:
    here = compilation.environment()
    units = torch.cpu.get_capabilities()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units | {"num_physical_cores": 99})
    assert compilation.environment() == here
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units | {"avx_of_the_future": True})
    assert compilation.environment() != here
    assert len(list((cache_home / "llamagen" / "compiled").iterdir())) == 2
