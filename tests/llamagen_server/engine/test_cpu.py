"""Tuning of this process for a CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llamagen_server.engine import cpu


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of threads that torch was set to; malloc is left alone."""
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")  # an environment that configures malloc is respected
    return asked


@pytest.mark.parametrize(("cores", "parameters", "workers"), [(3, 1000, 3), (3, 2**23, 1), (8, 1000, 1)])
def test_a_small_decoder_gets_one_thread_per_image_on_few_cores(
    cores: int, parameters: int, workers: int, threads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "cores", lambda: cores)
    assert cpu.tune_process(parameters) == workers
    assert threads == ([1] if workers > 1 else [])


def test_missing_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert cpu.missing_for_compilation() == "C++ compiler no-such-compiler"


def test_compilation_needs_openssl(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "g++"
    compiler.touch(mode=0o755)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cpu.missing_for_compilation() == "command openssl"


def test_other_vector_units_have_a_compile_cache_of_their_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    here = cpu.compile_cache()
    assert Path(here["TORCHINDUCTOR_CACHE_DIR"]).parent == tmp_path / "llamagen" / "compiled"
    units = torch.cpu.get_capabilities()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units | {"num_physical_cores": 99})
    assert cpu.compile_cache() == here
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units | {"avx_of_the_future": True})
    assert cpu.compile_cache() != here
    assert len(list((tmp_path / "llamagen" / "compiled").iterdir())) == 2


def test_compile_cache_that_cannot_be_made_is_left_to_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert cpu.compile_cache() == {}
