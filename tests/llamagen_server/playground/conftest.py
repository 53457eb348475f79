"""A Chromium page, and the stand-in server that it talks to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright
from tests.helpers.app_on_a_port import serve
from tests.llamagen_server.playground.page_actions import TIMEOUT_MS
from tests.llamagen_server.playground.stand_in_server import Scenario, make_app

CHROMIUM = "/usr/bin/chromium"
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not Path(CHROMIUM).exists():
        pytest.skip(f"{CHROMIUM} is missing")
    expect.set_options(timeout=TIMEOUT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield browser
        browser.close()


@pytest.fixture
def scenario() -> Scenario:
    """The stand-in server's behaviour; a test may change it at any time."""
    return Scenario()


@pytest.fixture
def page_url(scenario: Scenario) -> Iterator[str]:
    """Address of the server; a module may override it."""
    with serve(make_app(scenario)) as url:
        yield url


@pytest.fixture
def page(browser: Browser, page_url: str) -> Iterator[Page]:
    """A blank page in a new browser profile. A script error or a violated security policy fails the test."""
    context = browser.new_context(base_url=page_url, permissions=["clipboard-read", "clipboard-write"])
    context.set_default_timeout(TIMEOUT_MS)
    page = context.new_page()
    problems: list[str] = []

    def on_console(message: ConsoleMessage) -> None:
        # The browser reports each failed request in this form, and some tests want requests to fail.
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            problems.append(message.text)

    page.on("console", on_console)
    page.on("pageerror", lambda error: problems.append(str(error)))
    yield page
    context.close()
    assert not problems
