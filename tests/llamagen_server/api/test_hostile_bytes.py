"""Bytes on a real socket that are no request, or never become one: the server refuses them and serves others."""

from __future__ import annotations

import asyncio
import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from openai import APIStatusError, AsyncOpenAI
from tests.helpers.app import make_app
from tests.helpers.app_on_a_port import serve
from tests.helpers.hostile import JSON, MIB
from tests.llamagen_server.api.test_hostile_input import resident_bytes

from llamagen_server.api.app import create_app

POST = b"POST /generate HTTP/1.1\r\nhost: a\r\n"
RAW = {
    "no HTTP": b"\x00\x01\x02\x03" * 100 + b"\r\n\r\n",
    "TLS on a plain port": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 500,
    "no version": b"GET /\r\n\r\n",
    "an unknown version": b"GET /nothing HTTP/9.9\r\nhost: a\r\n\r\n",
    "no host": b"GET /health HTTP/1.1\r\n\r\n",
    "a header without a colon": b"GET / HTTP/1.1\r\nhost: a\r\nnonsense\r\n\r\n",
    "a null byte in a header": b"GET / HTTP/1.1\r\nhost: a\r\nx: a\0b\r\n\r\n",
    "a long request line": b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nhost: a\r\n\r\n",
    "a long header": b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"a" * 200_000 + b"\r\n\r\n",
    "headers of a megabyte": b"GET / HTTP/1.1\r\nhost: a\r\n" + b"x: aaaaaaaa\r\n" * 80_000 + b"\r\n",
    "two lengths": POST + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}",
    "a negative length": POST + b"content-length: -2\r\n\r\n{}",
    "a length that is no number": POST + b"content-length: 0x2\r\n\r\n{}",
    "an unknown transfer coding": POST + b"transfer-encoding: gzip\r\n\r\n{}",
    "a chunk without a size": POST + b"transfer-encoding: chunked\r\n\r\nxyz\r\n{}\r\n0\r\n\r\n",
    "a huge length": POST + b"content-length: 999999999999\r\n\r\n{}",
    "a length of 5000 digits": POST + b"content-length: " + b"9" * 5000 + b"\r\n\r\n{}",
    "junk after a request": POST + b"content-length: 0\r\n\r\n" + b"\xff" * 5000 + b"\r\n\r\n",
}
UNFINISHED = (
    b"G",
    b"GET / HTTP/1.1\r\nhost: a\r\nx: ",
    POST + b"content-type: application/json\r\ncontent-length: 100\r\n\r\n{",
    POST.replace(b"generate", b"v1/images/edits")
    + b"content-type: multipart/form-data; boundary=x\r\ntransfer-encoding: chunked\r\n\r\n5\r\n--x\r\n",
)


@pytest.fixture(scope="module")
def url(class_model_dir: Path) -> Iterator[str]:
    with serve(make_app(class_model_dir)) as url:
        yield url


async def is_ready(url: str) -> bool:
    async with httpx.AsyncClient(timeout=30) as client:
        return (await client.get(f"{url}/ready")).status_code == 200


async def connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    address = httpx.URL(url)
    return await asyncio.open_connection(address.host, address.port)


@pytest.mark.parametrize("name", RAW)
async def test_bytes_that_are_no_request_are_refused(url: str, name: str) -> None:
    reader, writer = await connect(url)
    received = b""
    with suppress(OSError):  # the server closes the connection while it is still written to
        writer.write(RAW[name])
        await writer.drain()
        writer.write_eof()
        while part := await asyncio.wait_for(reader.read(2**16), 30):
            received += part
    writer.transport.abort()
    statuses = [int(line.split()[1]) for line in received.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
    assert received == b"" or statuses, received
    assert all(400 <= status < 500 for status in statuses), received[:500]
    assert await is_ready(url)


async def test_a_refused_upload_gets_its_reply(url: str) -> None:
    """The clients send their whole bodies first; curl also without waiting for leave to."""
    data = b"a" * 70 * MIB

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(data), MIB):
            yield data[start : start + MIB]

    async with httpx.AsyncClient(timeout=60) as client:
        for content in (data, chunks()):
            reply = await client.post(f"{url}/generate", content=content, headers=JSON)
            assert (reply.status_code, "more than 1048576 bytes" in reply.text) == (413, True)
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as openai_client:
        with pytest.raises(APIStatusError, match="the body has more than 67108864 bytes"):
            await openai_client.images.edit(image=data, prompt="x")
    for flags in ((), ("-H", "expect:"), ("-H", "transfer-encoding: chunked"), ("--http1.0",)):
        curl = ("curl", "-sS", *flags, "-H", "content-type: application/json", "--data-binary", "@-", f"{url}/generate")
        run = await asyncio.to_thread(subprocess.run, curl, input=data, capture_output=True, timeout=60, check=False)
        assert (run.returncode, b"more than 1048576 bytes" in run.stdout) == (0, True), (flags, run)
    assert await is_ready(url)


REFUSED = {
    "no key": (401, "/v1/images/edits", {}),
    "compressed": (415, "/v1/images/edits", {"x-api-key": "key", "content-encoding": "gzip"}),
    "no form": (400, "/v1/images/edits", {"x-api-key": "key", "content-type": "text/plain"}),
    "still loading": (503, "/v1/images/edits", {"x-api-key": "key"}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_upload_that_is_refused_before_it_is_read_gets_its_reply(class_app: FastAPI, name: str) -> None:
    """urllib sends its whole body before it reads, and asks for the end of the connection after the reply."""
    status, path, headers = REFUSED[name]
    pipeline = None if status == 503 else class_app.state.pipeline
    with serve(create_app("tiny", pipeline, ["key"])) as url:
        headers = {"content-type": "multipart/form-data; boundary=x", **headers}
        request = urllib.request.Request(url + path, b"a" * 30 * MIB, headers)
        with pytest.raises(urllib.error.HTTPError) as error, urllib.request.urlopen(request, timeout=60):
            pass
        with error.value:
            assert (error.value.code, "message" in json.load(error.value)["error"]) == (status, True)


async def test_a_chunked_body_without_end_is_cut_off(url: str) -> None:
    sent = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 512 * MIB:
            sent += 2**16
            yield b"a" * 2**16

    before = resident_bytes()
    with suppress(httpx.NetworkError):  # as above
        async with httpx.AsyncClient(timeout=30) as client:
            assert (await client.post(f"{url}/generate", content=chunks(), headers=JSON)).status_code == 413
    assert sent < 512 * MIB
    assert resident_bytes() - before < 64 * MIB
    assert await is_ready(url)


async def test_unfinished_requests_hold_up_nobody(url: str) -> None:
    writers = [(await connect(url))[1] for _ in range(50) for _ in UNFINISHED]
    for number, writer in enumerate(writers):
        writer.write(UNFINISHED[number % len(UNFINISHED)])
    for _ in range(5):
        assert await is_ready(url)
        for writer in writers:
            writer.write(b"a")
    for writer in writers:
        writer.transport.abort()
    assert await is_ready(url)
