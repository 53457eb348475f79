"""Headers for browsers, on every reply and on pages."""

from __future__ import annotations

import httpx
import pytest


@pytest.mark.parametrize("path", ["/", "/docs", "/health", "/v1/models", "/nothing", "/metrics", "/openapi.json"])
async def test_no_reply_is_sniffed_or_names_its_page(class_client: httpx.AsyncClient, path: str) -> None:
    reply = await class_client.get(path)
    assert reply.headers.get_list("x-content-type-options") == ["nosniff"]
    assert reply.headers.get_list("referrer-policy") == ["no-referrer"]
    is_page = reply.headers["content-type"].startswith("text/html") if "content-type" in reply.headers else False
    assert is_page == (path in ("/", "/docs")) == ("content-security-policy" in reply.headers)


async def test_pages_load_nothing_from_elsewhere_and_run_no_inline_script(class_client: httpx.AsyncClient) -> None:
    for path in ("/", "/docs"):
        [policy] = (await class_client.get(path)).headers.get_list("content-security-policy")
        assert policy.startswith("default-src 'none'; script-src 'self'; ")
        assert "frame-ancestors 'none'" in policy
        assert "form-action 'none'" in policy
        assert "http" not in policy
        assert policy.count("'unsafe-inline'") == policy.count("style-src 'self' 'unsafe-inline'") == (path == "/docs")
