"""Replies that come before the body has been read. tests/llamagen_server/api/test_hostile_bytes.py has real sockets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send
from tests.helpers.app import client_of

from llamagen_server.api.app import create_app
from llamagen_server.api.middleware import unread_body
from llamagen_server.api.middleware.body_limit import MAX_BODY
from llamagen_server.api.middleware.unread_body import MAX_BODY_READ, UnreadBody


@pytest.fixture(params=[401, 413, 503])
def refusal(request: pytest.FixtureRequest, class_app: FastAPI) -> tuple[FastAPI, int]:
    """An app that refuses a large body, and the status."""
    status: int = request.param
    if status == 503:
        return create_app("tiny"), status
    return create_app("tiny", class_app.state.pipeline, ["key"] if status == 401 else []), status


PATHS = {401: "/v1/images/edits", 413: "/generate", 503: "/v1/images/edits"}


async def test_the_rest_of_a_body_is_read_before_the_reply(refusal: tuple[FastAPI, int]) -> None:
    """A client that reads the reply only when it has sent everything would not get it."""
    app, status = refusal
    for end in (MAX_BODY + 1, 8 * MAX_BODY):
        sent = 0

        async def chunks(end: int = end) -> AsyncIterator[bytes]:
            nonlocal sent
            while sent < end:
                sent += 2**16
                yield bytes(2**16)

        for headers in ({}, {"content-length": str(end)}):
            sent = 0
            headers["content-type"] = "multipart/form-data; boundary=x"
            async with client_of(app) as client:
                reply = await client.post(PATHS[status], content=chunks(), headers=headers)
            assert (reply.status_code, reply.headers.get("connection"), sent >= end) == (status, None, True)


async def test_an_endless_body_is_cut_off(refusal: tuple[FastAPI, int], monkeypatch: pytest.MonkeyPatch) -> None:
    app, status = refusal
    monkeypatch.setattr(unread_body, "DISCARD_SECONDS", 0.3)

    async def slow() -> AsyncIterator[bytes]:
        yield bytes(MAX_BODY + 1)
        await asyncio.sleep(5)
        yield b""

    async def huge() -> AsyncIterator[bytes]:
        for _ in range(MAX_BODY_READ // 2**26 + 2):
            yield bytes(2**26)

    async with client_of(app) as client:
        for content in (slow(), huge()):
            start = time.monotonic()
            reply = await client.post(PATHS[status], content=content)
            assert (reply.status_code, reply.headers["connection"]) == (status, "close")
            assert time.monotonic() - start < 3


async def test_a_body_that_is_too_large_to_drop_is_not_read(class_client: httpx.AsyncClient) -> None:
    headers = {"content-length": str(MAX_BODY_READ + 1)}
    reply = await class_client.post("/generate", content=never_read(), headers=headers)
    assert (reply.status_code, reply.headers["connection"]) == (413, "close")


async def never_read() -> AsyncIterator[bytes]:
    raise AssertionError("the body was asked for")
    yield b""


async def test_a_client_that_waits_for_leave_gets_the_reply_at_once(refusal: tuple[FastAPI, int]) -> None:
    app, status = refusal
    headers = {"expect": "100-continue", "content-length": str(MAX_BODY + 1)}
    headers["content-type"] = "multipart/form-data; boundary=x"
    async with client_of(app) as client:
        reply = await client.post(PATHS[status], content=never_read(), headers=headers)
    assert (reply.status_code, reply.headers.get("connection")) == (status, None)


async def test_a_reply_to_a_request_that_is_cut_off_waits_for_nothing() -> None:
    """When the server stops at once, `AccessLog` answers 503 in a task that is cancelled."""
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await receive()
        except asyncio.CancelledError:
            await send({"type": "http.response.start", "status": 503, "headers": []})
            raise

    async def receive() -> Message:
        await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "headers": [(b"content-length", b"10")]}
    task = asyncio.create_task(UnreadBody(app)(scope, receive, send))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task}, timeout=3)
    assert [message["headers"] for message in sent] == [[(b"connection", b"close")]]
    assert task.cancelled()
