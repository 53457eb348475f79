"""API keys: which routes need one, and how it is sent."""

from __future__ import annotations

from pathlib import Path

import openai
import pytest
from fastapi import FastAPI
from openai import AsyncOpenAI
from tests.helpers.app import client_of

from llamagen_server.api.app import create_app
from llamagen_server.api.middleware.api_key import OPEN_PATHS, collect_keys


@pytest.fixture
def locked_app(class_app: FastAPI) -> FastAPI:
    return create_app("tiny", class_app.state.pipeline, api_keys=["s3cret", "other"])


async def test_every_route_but_the_open_ones_requires_a_key(locked_app: FastAPI) -> None:
    paths = {route.path for route in locked_app.routes}  # type: ignore[attr-defined]
    assert len(paths) > 15
    async with client_of(locked_app) as client:
        for path in paths:
            is_open = path in OPEN_PATHS or path.startswith("/playground")
            for method in ("GET", "POST"):
                reply = await client.request(method, path)
                assert (reply.status_code == 401) != is_open, path
                if not is_open:
                    assert reply.json()["error"]["type"] == "authentication_error"
                    assert reply.headers["www-authenticate"] == "Bearer"
                    assert "x-request-id" in reply.headers
        for header, status in (("Bearer other", 200), ("bearer s3cret", 200), ("s3cret", 401), ("Bearer s3cre", 401)):
            reply = await client.get("/v1/models", headers={"authorization": header})
            assert reply.status_code == status, header


def test_the_openapi_page_shows_where_a_key_is_needed(locked_app: FastAPI, class_app: FastAPI) -> None:
    locked, open_ = locked_app.openapi(), class_app.openapi()
    for path, operations in locked["paths"].items():
        for method, operation in operations.items():
            needs_key = path not in OPEN_PATHS
            assert ("security" in operation) == needs_key == ("401" in operation["responses"]), path
            assert "security" not in open_["paths"][path][method]
    assert "securitySchemes" not in open_["components"]


async def test_the_stock_client_with_and_without_its_key(locked_app: FastAPI) -> None:
    async with client_of(locked_app) as http_client:
        good = AsyncOpenAI(api_key="s3cret", base_url="http://test/v1", http_client=http_client, max_retries=0)
        assert (await good.models.retrieve("tiny")).id == "tiny"
        bad = AsyncOpenAI(api_key="wrong", base_url="http://test/v1", http_client=http_client, max_retries=0)
        with pytest.raises(openai.AuthenticationError) as error:
            await bad.images.generate(prompt="x")
        assert error.value.request_id == error.value.response.headers["x-request-id"]


def test_keys_come_from_flags_the_environment_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "keys"
    secret.write_text("first\n\nsecond \r\n")
    monkeypatch.setenv("LLAMAGEN_API_KEY", "one")
    assert collect_keys(["zero"], [secret]) == ["zero", "one", "first", "second"]


@pytest.mark.parametrize("key", ["", "two words", "tab\t", "schlüssel"])
def test_a_key_that_no_header_can_carry_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="printable ASCII") as error:
        collect_keys([key])
    assert not key or key not in str(error.value)
