"""Request ids and the access log."""

from __future__ import annotations

import httpx
import pytest
from fastapi import FastAPI


async def test_an_unexpected_error_has_an_id_and_one_log_line(
    class_client: httpx.AsyncClient, class_app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    class_app.state.pipeline.engine.error = ZeroDivisionError("secret detail")
    reply = await class_client.post("/generate", json={"class_id": 0}, headers={"x-request-id": "r"})
    assert (reply.status_code, reply.headers["x-request-id"]) == (500, "r")
    assert [record.message for record in caplog.records if record.exc_info] == ["request failed"]


async def test_a_path_cannot_forge_log_lines(class_client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        await class_client.get("/a%0AINFO forged")
    assert not any("\n" in record.message for record in caplog.records)
    assert any("/a%0AINFO%20forged" in record.message for record in caplog.records)


async def test_request_ids(text_client: httpx.AsyncClient) -> None:
    for given, kept in (("my-id.7", True), ("bad id\x07", False), ("x" * 65, False), ("", False)):
        reply = await text_client.get("/v1/models", headers={"x-request-id": given})
        assert (reply.headers["x-request-id"] == given) is kept
        assert len(reply.headers["x-request-id"]) > 0
