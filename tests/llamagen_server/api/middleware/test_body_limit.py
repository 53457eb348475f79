"""Bodies that are too large."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx

from llamagen_server.api.middleware.body_limit import MAX_BODY, MAX_IMAGE_BODY, MAX_VALUES


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
