"""Bodies that are too large."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import httpx
import pytest

from llamagen_server.api.middleware import body_limit
from llamagen_server.api.middleware.body_limit import MAX_BODY, MAX_DISCARDED, MAX_IMAGE_BODY, MAX_VALUES


async def test_large_bodies_are_413(class_client: httpx.AsyncClient) -> None:
    start = b'--x\r\ncontent-disposition: form-data; name="image"; filename="a"\r\n\r\n'

    async def chunks(limit: int) -> AsyncIterator[bytes]:
        yield start
        for _ in range(limit // 2**20):
            yield bytes(2**20)

    for path, limit in {"/generate": MAX_BODY, "/v1/images/generations": MAX_BODY, **MAX_IMAGE_BODY}.items():
        headers = {"content-type": "multipart/form-data; boundary=x"}
        for content in (start + bytes(limit), chunks(limit)):
            reply = await class_client.post(path, content=content, headers=headers)
            assert reply.status_code == 413, reply.text
            assert f"the body has more than {limit} bytes" in reply.json()["error"]["message"]


async def test_bodies_of_many_values_are_413(class_client: httpx.AsyncClient) -> None:
    for path in ("/generate", "/v1/images/encode", "/v1/images/decode"):
        reply = await class_client.post(path, content=b"[" * (MAX_VALUES + 1))
        assert reply.status_code == 413, reply.text
        assert f"the body has more than {MAX_VALUES} values" in reply.json()["error"]["message"]
        assert (await class_client.post(path, content=b"[" * MAX_VALUES)).status_code == 400


async def test_the_rest_of_a_large_body_is_read_before_the_reply(class_client: httpx.AsyncClient) -> None:
    """A client that reads the reply only when it has sent everything would not get it."""
    for end in (MAX_BODY + 1, 8 * MAX_BODY):
        sent = 0

        async def chunks(end: int = end) -> AsyncIterator[bytes]:
            nonlocal sent
            while sent < end:
                sent += 2**16
                yield bytes(2**16)

        for headers in ({}, {"content-length": str(end)}):
            sent = 0
            reply = await class_client.post("/generate", content=chunks(), headers=headers)
            assert (reply.status_code, reply.headers.get("connection"), sent >= end) == (413, None, True)


async def test_an_endless_body_is_cut_off(class_client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_limit, "DISCARD_SECONDS", 0.3)

    async def slow() -> AsyncIterator[bytes]:
        yield bytes(MAX_BODY + 1)
        await asyncio.sleep(5)
        yield b""

    async def huge() -> AsyncIterator[bytes]:
        for _ in range(MAX_DISCARDED // 2**26 + 2):
            yield bytes(2**26)

    for content in (slow(), huge()):
        start = time.monotonic()
        reply = await class_client.post("/generate", content=content)
        assert (reply.status_code, reply.headers["connection"]) == (413, "close")
        assert time.monotonic() - start < 3
    reply = await class_client.post("/generate", headers={"content-length": str(MAX_DISCARDED + 1)})
    assert (reply.status_code, reply.headers["connection"]) == (413, "close")


async def test_a_client_that_waits_for_leave_gets_the_reply_at_once(class_client: httpx.AsyncClient) -> None:
    async def never() -> AsyncIterator[bytes]:
        raise AssertionError("the body was asked for")
        yield b""

    headers = {"expect": "100-continue", "content-length": str(MAX_BODY + 1)}
    reply = await class_client.post("/generate", content=never(), headers=headers)
    assert (reply.status_code, reply.headers.get("connection")) == (413, None)
