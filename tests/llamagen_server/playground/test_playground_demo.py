"""The page with the real server and the embedded demo model."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page
from tests.llamagen_server.playground.page_actions import check_every_action

pytestmark = [pytest.mark.browser, pytest.mark.engine]


@pytest.fixture
def page_url(demo_url: str) -> str:
    return demo_url


def test_every_action(page: Page, tmp_path: Path) -> None:
    check_every_action(page, tmp_path)
