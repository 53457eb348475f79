"""Pages of other origins: refused by browsers unless they are allowed."""

from __future__ import annotations

import httpx
import pytest
from fastapi import FastAPI
from tests.helpers.app import client_of

from llamagen_server.api.app import create_app
from llamagen_server.api.middleware.cors import Cors, read_cors
from llamagen_server.core.options import Limits

PAGE = "https://page.example"
PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}


def app_for(class_app: FastAPI, *origins: str) -> FastAPI:
    return create_app("tiny", class_app.state.pipeline, api_keys=["s3cret"], cors=Cors(origins))


async def preflight(app: FastAPI, origin: str) -> httpx.Response:
    async with client_of(app) as client:
        return await client.options("/generate", headers={"origin": origin, **PREFLIGHT})


async def test_no_origin_is_allowed_by_default(class_client: httpx.AsyncClient) -> None:
    for method, path in (("OPTIONS", "/generate"), ("GET", "/v1/models"), ("GET", "/nothing")):
        reply = await class_client.request(method, path, headers={"origin": PAGE, **PREFLIGHT})
        assert not [name for name in reply.headers if name.startswith("access-control")]


async def test_a_preflight_needs_no_key(class_app: FastAPI) -> None:
    reply = await preflight(app_for(class_app, PAGE, "http://localhost:3000"), PAGE)
    assert reply.status_code == 200
    assert reply.headers["access-control-allow-origin"] == PAGE
    assert "authorization" in reply.headers["access-control-allow-headers"]
    assert "access-control-allow-credentials" not in reply.headers
    refused = await preflight(app_for(class_app, PAGE), "https://other.example")
    assert refused.status_code == 400
    assert "access-control-allow-origin" not in refused.headers
    assert (await preflight(app_for(class_app, "*"), "https://other.example")).status_code == 200


async def test_replies_and_errors_have_the_headers(class_app: FastAPI) -> None:
    app = app_for(class_app, PAGE)
    key = {"x-api-key": "s3cret"}
    async with client_of(app) as client:

        async def allowed(status: int, method: str, path: str, headers: dict[str, str], body: object = None) -> None:
            reply = await client.request(method, path, headers={"origin": PAGE, **headers}, json=body)
            assert reply.status_code == status
            assert reply.headers["access-control-allow-origin"] == PAGE
            exposed = reply.headers["access-control-expose-headers"]
            assert {name.strip() for name in exposed.split(",")} == {"x-request-id", "retry-after", "x-seed"}

        await allowed(200, "GET", "/v1/models", key)
        await allowed(401, "GET", "/v1/models", {})
        await allowed(404, "GET", "/nothing", key)
        await allowed(413, "POST", "/generate", key, {"prompt": "a" * 2**21})
        app.state.pipeline.admission.limits = Limits(max_in_flight=1)
        app.state.pipeline.admission._held["x"] = 1
        await allowed(429, "POST", "/generate", key, {"class_id": 1})
        app.state.pipeline.admission._held.clear()
        app.state.pipeline.engine.error = ZeroDivisionError()
        await allowed(500, "POST", "/generate", key, {"class_id": 1})


async def test_methods_headers_and_credentials_may_be_given(class_app: FastAPI) -> None:
    cors = Cors((PAGE,), ("GET",), ("x-api-key",), allow_credentials=True)
    app = create_app("tiny", class_app.state.pipeline, cors=cors)
    async with client_of(app) as client:
        for method, header, status in (("GET", "x-api-key", 200), ("POST", "x-api-key", 400), ("GET", "x-other", 400)):
            asked = {"access-control-request-method": method, "access-control-request-headers": header}
            reply = await client.options("/v1/models", headers={"origin": PAGE, **asked})
            assert (reply.status_code, reply.headers["access-control-allow-credentials"]) == (status, "true")


@pytest.mark.parametrize("origin", ["*", PAGE, "http://localhost:3000", "http://[::1]:8080", "chrome-extension://abc"])
def test_origins_as_browsers_send_them(origin: str) -> None:
    assert read_cors([origin], [], [], False) == Cors((origin,))


def test_flags_may_be_json_lists_as_for_vllm() -> None:
    origins = ['["https://a.example", "*"]', "http://b"]
    assert read_cors(origins, ['["*"]'], ['["*"]'], False) == Cors(("https://a.example", "*", "http://b"))
    assert read_cors([], ['["get", "POST"]'], ["x-a", "x-b"], True) == Cors((), ("GET", "POST"), ("x-a", "x-b"), True)
    for text in (
        "https://a.example:443",
        "http://a.example:80",
        "[",
        '["https://a.example"',
        "[1]",
        '["https://a.example/"]',
    ):
        with pytest.raises(ValueError, match="--allowed-origins is"):
            read_cors([text], [], [], False)
    with pytest.raises(ValueError, match="--allowed-methods is 'GET,POST', must be [*] or a method"):
        read_cors([], ["GET,POST"], [], False)
    with pytest.raises(ValueError, match="--allowed-headers is 'x-a: 1', must be [*] or the name of a header"):
        read_cors([], [], ["x-a: 1"], False)
    with pytest.raises(ValueError, match="--allow-credentials needs the origins by name"):
        read_cors(["*"], [], [], True)
