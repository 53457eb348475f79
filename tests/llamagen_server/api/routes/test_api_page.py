"""``/docs`` without internet."""

from __future__ import annotations

import re

import httpx


async def test_the_page_and_its_files_come_from_this_server(class_client: httpx.AsyncClient) -> None:
    page = await class_client.get("/docs")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(links) == 4
    for link in links:
        assert not link.startswith(("/", "http")), "links are relative, so that they work below a path prefix"
        reply = await class_client.get(f"/{link}")
        assert (reply.status_code, len(reply.content) > 100) == (200, True), link
        unchanged = await class_client.get(f"/{link}", headers={"if-none-match": reply.headers["etag"]})
        assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert "<script>" not in page.text


async def test_other_names_do_not_exist(class_client: httpx.AsyncClient) -> None:
    for name in ("nothing.js", "..%2f__init__.py", "favicon-32x32.png", "index.html.bak"):
        assert (await class_client.get(f"/docs/{name}")).status_code == 404, name
    assert (await class_client.get("/redoc")).status_code == 404
