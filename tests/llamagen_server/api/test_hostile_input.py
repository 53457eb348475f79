"""Requests that are meant to do harm: each gets an error reply, nothing is opened, and the app lives on."""

from __future__ import annotations

import json
import os
import socket
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from tests.helpers.app import client_of, make_app
from tests.helpers.hostile import CASES, JSON, MIB, POSTS, Case

MAX_GROWTH = 64 * MIB
"""Memory that may be added by any one case, and by all of them."""


@pytest.fixture(scope="module")
def app(text_model_dir: Path) -> FastAPI:
    return make_app(text_model_dir)


@pytest.fixture(scope="module", autouse=True)
def no_growth() -> Iterator[None]:
    """Memory of Python's objects, before and after all cases."""
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    yield
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < MAX_GROWTH


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Connections that the app asks for."""
    asked: list[str] = []
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: asked.append(str(address)))
    return asked


def resident_bytes() -> int:
    """Memory of this process, with the pixels of images, which are no Python objects."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
async def test_a_harmful_request_is_an_error_reply(app: FastAPI, case: Case, opened: list[str]) -> None:
    async with client_of(app) as client:
        before, resident = tracemalloc.get_traced_memory()[0], resident_bytes()
        tracemalloc.reset_peak()
        reply = await client.request(case.method, case.path, content=case.content, headers=case.headers)
        assert tracemalloc.get_traced_memory()[1] - before < MAX_GROWTH
        assert resident_bytes() - resident < MAX_GROWTH
        assert reply.status_code == case.status, reply.text[:500]
        error = reply.json()["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert 0 < len(error["message"]) < 1100
        assert "\n" not in error["message"]
        assert "root:" not in reply.text
        assert "x-request-id" in reply.headers
        assert (await client.get("/ready")).status_code == 200
    assert opened == []
    assert app.state.pipeline.admission.in_flight == 0
    assert app.state.pipeline.engine.requests == []


def test_there_are_cases_for_every_route_with_a_body() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 150
    assert {*POSTS, "/v1/images/edits"} <= {case.path for case in CASES}


@pytest.mark.parametrize(
    "prompt", ["\ud800", "a\0b", "../../etc/passwd", "file:///etc/passwd", "<" * 4096, "\u202e" * 9]
)
async def test_unusual_prompts_are_only_text(text_app: FastAPI, prompt: str, opened: list[str]) -> None:
    """They are cleaned and tokenized, or refused if nothing is left."""
    async with client_of(text_app) as client:
        reply = await client.post("/generate", content=json.dumps({"prompt": prompt}), headers=JSON)
        assert reply.status_code in (200, 400)
    assert opened == []
