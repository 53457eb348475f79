"""The playground's main path against the real server with the embedded demo model."""

from __future__ import annotations

import pytest
from tests.llamagen_server.playground.test_playground import browser, page, test_from_a_prompt_to_pictures  # noqa: F401

pytestmark = pytest.mark.engine


@pytest.fixture
def page_url(demo_url: str) -> str:
    return demo_url
