"""API keys: which routes need one, and how it is sent."""

from __future__ import annotations

import hmac
import re
from pathlib import Path

import openai
import pytest
from fastapi import FastAPI, Request
from openai import AsyncOpenAI
from tests.helpers.app import client_of

from llamagen_server.api.app import create_app
from llamagen_server.api.middleware.api_key import OPEN_PATHS, Keyring


@pytest.fixture
def locked_app(class_app: FastAPI) -> FastAPI:
    return create_app("tiny", class_app.state.pipeline, api_keys=["s3cret", "other"])


async def test_every_route_but_the_open_ones_requires_a_key(locked_app: FastAPI) -> None:
    paths = {route.path for route in locked_app.routes}  # type: ignore[attr-defined]
    assert len(paths) > 15
    async with client_of(locked_app) as client:
        for path in paths:
            free = path in OPEN_PATHS or path.startswith(("/playground/", "/images/"))
            for method in ("GET", "POST"):
                reply = await client.request(method, path)
                assert (reply.status_code == 401) != free, path
                if not free:
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
            needs_key = path not in (*OPEN_PATHS, "/images/{name}")
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


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"x-api-key": "s3cret"}, 200),
        ({"api-key": "other"}, 200),
        ({"x-api-key": "wrong", "authorization": "Bearer s3cret"}, 200),
        ({"x-api-key": "wrong"}, 401),
        ({"api-key": ""}, 401),
        ({"x-api-key": "Bearer s3cret"}, 401),
        ({"cookie": "x-api-key=s3cret"}, 401),
        ({"authorization": "Basic s3cret"}, 401),
        ({"authorization": "Bearer"}, 401),
        ({"authorization": "Bearer s3cret other"}, 401),
        ({"authorization": b"Bearer s3cret\xff"}, 401),
    ],
)
async def test_headers_that_carry_a_key(locked_app: FastAPI, headers: dict[str, str | bytes], status: int) -> None:
    async with client_of(locked_app) as client:
        assert (await client.get("/v1/models", headers=headers)).status_code == status  # type: ignore[arg-type]
        assert (await client.get("/v1/models?api_key=s3cret&key=s3cret")).status_code == 401


async def client_id(app: FastAPI, key: str) -> str:
    """The id that the routes see."""

    @app.get("/client")
    async def client_route(request: Request) -> str:
        return str(request.state.client)

    async with client_of(app) as client:
        reply = await client.get("/client", headers={"x-api-key": key})
        return str(reply.json())


async def test_a_requests_client_is_a_short_id_and_not_the_key(class_app: FastAPI, locked_app: FastAPI) -> None:
    ids = [await client_id(locked_app, key) for key in ("s3cret", "other")]
    assert len({*ids}) == 2
    assert all(re.fullmatch("[0-9a-f]{12}", name) for name in ids)
    assert await client_id(class_app, "s3cret") == ""


def test_every_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return a == b

    monkeypatch.setattr(hmac, "compare_digest", compare)
    keyring = Keyring(["a", "bb", "ccc"])
    for token in (b"a", b"ccc", b"", b"x" * 1000):
        compared.clear()
        keyring.client(token)
        assert [(len(a), len(b)) for a, b in compared] == [(32, 32)] * 3


def test_keys_come_from_flags_the_environment_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "keys"
    secret.write_text("first\n\nsecond \r\n")
    monkeypatch.setenv("LLAMAGEN_API_KEY", "one")
    keyring = Keyring.collect(["zero"], [secret])
    assert all(keyring.client(key) for key in (b"zero", b"one", b"first", b"second"))
    assert [key for key in (b"", b"third", b"first\n", b"FIRST") if keyring.client(key)] == []


async def test_key_files_are_read_again_and_a_wrong_one_changes_nothing(
    class_app: FastAPI, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (secret := tmp_path / "keys").write_text("0ld-key")
    keyring = Keyring(["fixed"], [secret])
    app = create_app("tiny", class_app.state.pipeline, api_keys=keyring)

    async def accepted() -> list[str]:
        keys = ("fixed", "0ld-key", "n3w-key")
        replies = [await client.get("/load", headers={"x-api-key": key}) for key in keys]
        return [key for key, reply in zip(keys, replies, strict=True) if reply.status_code == 200]

    async with client_of(app) as client:
        secret.write_text("n3w-key")
        assert await accepted() == ["fixed", "0ld-key"]
        keyring.reload()
        assert await accepted() == ["fixed", "n3w-key"]
        for content in (b"", b"two words n3w-key", b"\xff"):
            secret.write_bytes(content)
            keyring.reload()
            assert await accepted() == ["fixed", "n3w-key"]
        secret.unlink()
        keyring.reload()
        assert await accepted() == ["fixed", "n3w-key"]
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 4
    assert all(error.startswith(f"the keys stay as they are: the key file {secret}") for error in errors)
    assert "-key " not in caplog.text
    assert "n3w-key" not in caplog.text


@pytest.mark.parametrize("key", ["", "two words", "tab\t", "schlüssel"])
def test_a_key_that_no_header_can_carry_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="printable ASCII") as error:
        Keyring.collect([key])
    assert not key or key not in str(error.value)
