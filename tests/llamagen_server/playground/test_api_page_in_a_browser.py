"""``/docs`` in a real browser that reaches this server and no other, below a path prefix."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from tests.helpers.app import make_app
from tests.helpers.app_on_a_port import serve

pytestmark = pytest.mark.browser


@pytest.fixture
def page_url(class_model_dir: Path) -> Iterator[str]:
    app = make_app(class_model_dir)
    app.root_path = "/images-api"
    with serve(app) as url:
        yield url


def test_the_page_shows_the_routes_and_sends_a_request(page: Page, page_url: str) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto("/images-api/docs")
    route = page.locator("[id*=models_v1_models_get]")
    route.locator("button").first.click()
    route.get_by_role("button", name="Try it out").click()
    route.get_by_role("button", name="Execute").click()
    expect(route.locator(".live-responses-table .response-col_status").last).to_contain_text("200")
    assert asked[-1] == f"{page_url}/images-api/v1/models"
    assert [url for url in asked if not url.startswith(f"{page_url}/images-api/")] == []
