"""A hub with golden checkpoints, and a cache of its own for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from tests.helpers.hub_server import Hub, golden_files, serve_hub, use_golden_catalogue


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """LLAMAGEN_CACHE, and an empty cache of the hub's library."""
    monkeypatch.setenv("LLAMAGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "huggingface"))
    return tmp_path / "cache"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, golden_dir: Path, cache: Path) -> Iterator[Hub]:
    use_golden_catalogue(monkeypatch, golden_dir)
    with serve_hub(golden_files(golden_dir)) as server:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield server
