"""Folders for caches and sockets, where the usual ones do not work."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from llamagen_server.core.cache_home import cache_home
from llamagen_server.engine import folders
from llamagen_server.engine.folders import CACHE_ROOT, SOCKETS

NOWHERE = "/proc/self/nothing"
"""A folder that not even root can make."""


@pytest.fixture(autouse=True)
def usual(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine on which everything works."""
    for name in (CACHE_ROOT, SOCKETS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")


def test_nothing_is_set_where_everything_works(tmp_path: Path) -> None:
    assert folders.variables() == {}
    assert cache_home() == tmp_path / "cache"


def test_a_home_without_an_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's arbitrary user: no entry in /etc/passwd, HOME is / or nothing."""
    monkeypatch.delenv("XDG_CACHE_HOME")
    for home in (NOWHERE, "~"):  # expanduser returns ~ if it finds no home
        monkeypatch.setenv("HOME", home)
        assert cache_home() is None
        assert folders.variables() == {CACHE_ROOT: str(folders.temporary_cache() / "vllm")}
    assert not Path("~").exists()
    monkeypatch.setenv(CACHE_ROOT, "/mine")
    assert folders.variables() == {}


def test_a_file_in_place_of_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert CACHE_ROOT in folders.variables()


@pytest.mark.parametrize(("length", "is_short"), [(70, True), (71, False), (200, False)])
def test_sockets_have_short_paths(length: int, is_short: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/" + "é" * ((length - 1) // 2) + "x" * ((length - 1) % 2))
    assert folders.variables() == ({} if is_short else {SOCKETS: "/tmp"})
    monkeypatch.setattr(folders, "SHORT_FOLDERS", (NOWHERE, "/dev/shm"))
    assert folders.variables() == ({} if is_short else {SOCKETS: "/dev/shm"})
    monkeypatch.setenv(SOCKETS, "/mine")
    assert folders.variables() == {}


def test_no_folder_for_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/x" * 40)
    monkeypatch.setattr(folders, "SHORT_FOLDERS", (NOWHERE,))
    with pytest.raises(ValueError, match=f"/x/x, has a name that is too long for sockets, and {NOWHERE} cannot be wri"):
        folders.variables()
