"""Headers for browsers, on every reply and on pages."""

from __future__ import annotations

import re

import httpx
import pytest


@pytest.mark.parametrize("path", ["/", "/docs", "/health", "/v1/models", "/nothing", "/metrics", "/openapi.json"])
async def test_no_reply_is_sniffed_or_names_its_page(class_client: httpx.AsyncClient, path: str) -> None:
    reply = await class_client.get(path)
    assert reply.headers.get_list("x-content-type-options") == ["nosniff"]
    assert reply.headers.get_list("referrer-policy") == ["no-referrer"]
    is_page = reply.headers["content-type"].startswith("text/html") if "content-type" in reply.headers else False
    assert is_page == (path in ("/", "/docs")) == ("content-security-policy" in reply.headers)


async def test_pages_cannot_be_framed_and_ours_runs_no_inline_script(class_client: httpx.AsyncClient) -> None:
    ours, docs = [(await class_client.get(path)).headers for path in ("/", "/docs")]
    for headers in (ours, docs):
        [policy] = headers.get_list("content-security-policy")
        assert policy.startswith("default-src 'none'; ")
        assert "frame-ancestors 'none'" in policy
        assert "form-action 'none'" in policy
    assert "unsafe" not in ours["content-security-policy"]
    assert "https:" not in ours["content-security-policy"]


async def test_the_policy_of_docs_allows_what_the_page_loads(class_client: httpx.AsyncClient) -> None:
    reply = await class_client.get("/docs")
    policy = reply.headers["content-security-policy"]
    hosts = set(re.findall(r'(?:src|href)="(https://[^/"]+)/[^"]+\.(?:js|css)"', reply.text))
    assert [host for host in hosts if policy.count(host) < 1] == []
    assert ("<script>" in reply.text) <= ("'unsafe-inline'" in policy)
