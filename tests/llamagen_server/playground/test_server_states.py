"""The page while the server loads, rejects a request, fails or wants an API key."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, Route, expect
from tests.llamagen_server.playground.page_actions import TIMEOUT_MS, copied_command, generate, submit, thumbnail
from tests.llamagen_server.playground.stand_in_server import Scenario

pytestmark = pytest.mark.browser


def test_page_waits_until_the_model_is_loaded(page: Page, scenario: Scenario) -> None:
    scenario.ready = False
    page.goto("/")
    expect(page.get_by_text("The model is loading. This page continues automatically.")).to_be_visible()
    scenario.ready = True
    generate(page)
    assert len(scenario.requests) == 1


def test_key_is_asked_for_and_stored_in_the_tab_only(page: Page, scenario: Scenario) -> None:
    scenario.key = "secret"
    page.goto("/")
    for key in ("wrong", "secret"):
        page.get_by_label("API key").fill(key)
        page.keyboard.press("Enter")
    generate(page)
    assert "$LLAMAGEN_API_KEY" in copied_command(page)
    assert page.evaluate("JSON.stringify(localStorage)") == "{}"
    scenario.key = "another"  # changed during the session
    submit(page, "a blue square")
    page.get_by_label("API key").fill("another")
    page.keyboard.press("Enter")
    expect(thumbnail(page, "a blue square")).to_be_visible()


def test_several_requests_share_one_question_for_the_key(page: Page, scenario: Scenario) -> None:
    page.goto("/")
    generate(page)
    scenario.key = "secret"
    page.get_by_role("button", name="Guidance").click()
    page.get_by_label("API key").fill("secret")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_have_text(re.compile("^4 images in"))


def test_a_request_rejected_after_the_answer_uses_the_new_key(page: Page, scenario: Scenario) -> None:
    page.goto("/")
    generate(page)
    scenario.key = "secret"
    without_key: list[Route] = []

    def hold_back_all_but_the_first(route: Route) -> None:
        if "authorization" in route.request.headers:
            route.continue_()
            return
        without_key.append(route)
        if len(without_key) == 1:
            route.continue_()

    page.route("**/generate", hold_back_all_but_the_first)
    page.get_by_role("button", name="Guidance").click()
    page.get_by_label("API key").fill("secret")
    page.keyboard.press("Enter")
    expect(page.get_by_label("API key")).to_be_hidden()
    held_back = without_key[1:]
    assert len(held_back) == 3
    for route in held_back:
        route.continue_()
    expect(page.get_by_role("status")).to_have_text(re.compile("^4 images in"))


def test_vllms_own_server_has_no_ready_and_other_roots(page: Page, scenario: Scenario) -> None:
    scenario.has_ready, scenario.names, scenario.roots = False, ("mine", "alias"), ("/models/t2i", "mine")
    page.goto("/")
    generate(page)
    expect(page.get_by_role("navigation", name="Model")).to_have_text("mine")
    assert scenario.requests[-1]["model"] == "mine"


def test_error_messages_of_the_server_are_shown(page: Page, scenario: Scenario) -> None:
    page.goto("/")
    alert = page.get_by_role("alert")
    submit(page, "refuse")
    expect(alert).to_have_text("prompt is 'refuse': not today")
    scenario.error = "the engine stopped; see the server's log"
    submit(page, "a red circle")
    expect(alert).to_have_text(scenario.error)
    scenario.error, scenario.truncated = None, True
    submit(page, "a red circle")
    expect(alert).to_have_text("The server closed the connection before the image was complete.")
    scenario.truncated = False
    generate(page)
    expect(alert).to_be_hidden()


def test_cancel_closes_the_connection(page: Page, scenario: Scenario) -> None:
    scenario.stalled = True
    page.goto("/")
    submit(page, "a red circle")
    expect(page.locator(".tile img[src^='data:']")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("status")).to_have_text("Cancelled.")
    expect(page.get_by_role("button", name="Cancel")).to_be_hidden()
    assert scenario.disconnected.acquire(timeout=TIMEOUT_MS / 1000)
