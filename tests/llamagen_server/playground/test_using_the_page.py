"""Everything that a user does on the page, with the stand-in server."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from demo.playground_screenshot import screenshot
from PIL import Image
from playwright.sync_api import Page, expect
from tests.llamagen_server.playground.page_actions import (
    check_every_action,
    generate,
    run_copied_command,
    shown_seed,
    submit,
    thumbnail,
)
from tests.llamagen_server.playground.stand_in_server import GRID, Scenario

pytestmark = pytest.mark.browser

NAME_OF_FOCUSED = """(({ ariaLabel, labels, innerText, firstElementChild }) =>
    ariaLabel || labels?.[0]?.innerText || innerText || firstElementChild?.alt)(document.activeElement)"""

# Creates the database as version 1 of the page did, with the given record.
CREATE_OLD_HISTORY = """() => new Promise((resolve, reject) => {
    const opening = indexedDB.open("llamagen-playground", 1);
    opening.onerror = () => reject(opening.error);
    opening.onupgradeneeded = () => opening.result.createObjectStore("old name", { keyPath: "id" }).put({ id: 1 });
    opening.onsuccess = () => resolve(opening.result.close());
})"""


def test_every_action(page: Page, tmp_path: Path) -> None:
    check_every_action(page, tmp_path)


def test_several_images(page: Page, scenario: Scenario) -> None:
    page.goto("/")
    page.get_by_label("Images", exact=True).fill("3")
    page.get_by_role("button", name="One more image").click()
    page.get_by_label("Seed", exact=True).fill("7")
    submit(page, "a red circle")
    expect(page.get_by_role("status")).to_have_text("4 images in 1.2 s.")
    sent = {name: scenario.requests[-1][name] for name in ("n", "seed", "cfg_scale", "top_k")}
    assert sent == {"n": 4, "seed": 7, "cfg_scale": 3, "top_k": 0}
    page.locator(".tile button").nth(2).click()
    assert shown_seed(page) == "9"
    expect(page.get_by_label("Seed", exact=True)).to_have_value("9")


def test_the_same_seed_at_several_guidance_scales(page: Page, scenario: Scenario) -> None:
    page.goto("/")
    generate(page)
    seed = int(shown_seed(page))
    page.get_by_role("button", name="Guidance").click()
    expect(page.get_by_role("status")).to_have_text(re.compile(r"^4 images in"))
    sent = {(request["cfg_scale"], request["seed"], request["n"]) for request in scenario.requests[-4:]}
    assert sent == {(scale, seed, 1) for scale in (1, 2, 4, 7.5)}
    expect(page.locator(".caption")).to_have_text([f"guidance {scale}" for scale in ("1", "2", "4", "7.5")])
    assert len({tile.bounding_box()["y"] for tile in page.locator(".tile").all()}) == 1  # type: ignore[index]
    page.locator(".tile button").nth(3).click()
    expect(page.locator("dl")).to_contain_text("guidance7.5")
    assert int(shown_seed(page)) == seed


def test_the_screenshot_of_the_readme_shows_the_strip(page: Page, page_url: str, tmp_path: Path) -> None:
    screenshot(page, page_url, "a red circle", 5, tmp_path / "page.png")
    expect(page.locator(".finished")).to_have_count(4)
    with Image.open(tmp_path / "page.png") as picture:
        assert picture.size == (1280, 620)


def test_escape_ends_all_requests_of_a_strip(page: Page, scenario: Scenario) -> None:
    page.goto("/")
    generate(page)
    scenario.stalled = True
    page.get_by_role("button", name="Guidance").click()
    expect(page.locator(".tile img:visible")).to_have_count(4)
    page.keyboard.press("Escape")
    expect(page.get_by_role("status")).to_have_text("Cancelled.")
    assert all(scenario.disconnected.acquire(timeout=10) for _ in range(4))


def test_an_example_is_generated_from_its_recipe(page: Page, scenario: Scenario) -> None:
    scenario.names = ("llamagen-demo",)
    page.goto("/")
    page.get_by_label("Images", exact=True).fill("4")
    page.get_by_label("Scale").last.fill("5.5")
    name = "a green triangle in the top left corner on navy"
    page.get_by_role("list", name="Examples").get_by_role("button", name=name).click()
    expect(page.get_by_role("button", name="Vary")).to_be_visible()
    [request] = scenario.requests
    asked = {name: request[name] for name in ("prompt", "seed", "n", "cfg_scale")}
    assert asked == {"prompt": name, "seed": 2, "n": 1, "cfg_scale": 3}  # with the model's defaults
    page.get_by_role("button", name="Examples").click()
    expect(page.get_by_role("list", name="Examples").get_by_role("button")).to_have_count(12)


def test_several_models_at_one_address(page: Page, scenario: Scenario) -> None:
    scenario.names = ("tiny-text", "tiny-class")
    page.goto("/")
    generate(page)
    page.get_by_role("navigation", name="Model").get_by_role("link", name="tiny-class").click()
    field = page.get_by_role("combobox", name="Class")
    field.fill("goldfish")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_role("button", name="Vary")).to_be_visible()
    expect(page.locator("#thumbs li:not(#running)")).to_have_count(1)  # each model has a history of its own
    assert [request["model"] for request in scenario.requests] == ["tiny-text", "tiny-class"]
    expect(page.get_by_role("link", name="tiny-class")).to_have_attribute("aria-current", "page")


def test_class_model_without_guidance(page: Page, scenario: Scenario) -> None:
    scenario.names, scenario.guided = ("tiny-class",), False
    page.goto("/")
    field = page.get_by_role("combobox", name="Class")
    field.fill("aura")
    expect(page.get_by_role("option")).to_have_text(["goldfishCarassius auratus · 1"])
    page.keyboard.press("Enter")
    expect(field).to_have_value("goldfish")
    page.keyboard.press("Enter")
    expect(thumbnail(page, "goldfish (class 1)")).to_be_visible()
    expect(page.get_by_text("Guidance").filter(visible=True)).to_have_count(0)
    page.get_by_role("button", name="goldfish (class 1)").first.click()
    expect(page.get_by_role("button", name="Vary")).to_be_visible()
    expect(page.get_by_role("button", name="Guidance")).to_be_hidden()
    request = scenario.requests[-1]
    assert (request["class_id"], request["cfg_scale"]) == (1, 1)
    assert "cfg_schedule" not in request
    field.click()
    expect(page.get_by_role("option")).to_have_count(3)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Escape")
    expect(field).to_have_value("goldfish")


def test_inpainting_with_a_mask(page: Page, scenario: Scenario, tmp_path: Path) -> None:
    page.goto("/")
    generate(page)
    page.get_by_role("button", name="Edit").click()
    page.get_by_role("button", name="Inpaint").click()
    expect(page.get_by_role("status")).to_contain_text("First paint over the area")

    drag(page, (1, 1), (1, 4))
    drag(page, (1, 4))  # a second stroke over a masked cell removes it from the mask
    page.get_by_text("Rectangle").click()
    drag(page, (6, 7), (5, 6))
    page.get_by_role("button", name="Inpaint").click()
    expect(page.locator("dl")).to_contain_text("inpainted7 of 64 image tokens")
    keep = scenario.requests[-1]["keep"].resize((GRID, GRID), Image.Resampling.NEAREST)
    masked = {divmod(i, GRID) for i, alpha in enumerate(keep.tobytes()) if alpha == 0}
    assert masked == {(1, 1), (1, 2), (1, 3), (5, 6), (5, 7), (6, 6), (6, 7)}
    assert scenario.requests[-1]["prompt"] == "a red circle"
    sent = len(scenario.requests)
    run_copied_command(page, tmp_path)
    assert len(scenario.requests) == sent + 2  # the original, then the edit
    assert scenario.requests[-1]["keep"].resize((GRID, GRID), Image.Resampling.NEAREST) == keep


def drag(page: Page, *cells: tuple[int, int]) -> None:
    """Moves the pressed mouse from cell to cell (row, column) of the editor."""
    box = page.locator("canvas").bounding_box()
    assert box is not None
    for i, (row, column) in enumerate(cells):
        x, y = ((n + 0.5) * box["width"] / GRID for n in (column, row))
        page.mouse.move(box["x"] + x, box["y"] + y)
        if i == 0:
            page.mouse.down()
    page.mouse.up()


def test_history_survives_a_reload(page: Page) -> None:
    page.goto("/")
    page.get_by_label("Temperature").last.fill("0.5")
    generate(page, "a blue square")
    page.get_by_label("Temperature").last.fill("1.25")
    generate(page, "a green star")
    first = thumbnail(page, "a blue square")
    expect(first).to_be_visible()
    page.reload()
    expect(page.get_by_label("Prompt")).to_have_value("a green star")
    first.click()
    expect(first).to_have_attribute("aria-current", "true")
    expect(page.get_by_label("Prompt")).to_have_value("a blue square")
    expect(page.get_by_label("Temperature").last).to_have_value("0.5")
    expect(page.get_by_label("Seed", exact=True)).to_have_value(shown_seed(page))
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Clear history").click()
    expect(page.get_by_text("Your images will appear here")).to_be_visible()
    page.reload()
    expect(page.get_by_text("Your images will appear here")).to_be_visible()
    expect(first).to_have_count(0)


def test_a_history_of_an_older_version_is_dropped(page: Page) -> None:
    page.goto("/playground/icon.svg")
    page.evaluate(CREATE_OLD_HISTORY)
    page.goto("/")
    expect(page.get_by_text("Your images will appear here")).to_be_visible()
    generate(page)
    page.reload()
    expect(thumbnail(page, "a red circle")).to_be_visible()


def test_keyboard_alone(page: Page) -> None:
    """Every control has a name and is reached with Tab. An image is generated, edited and found in the history."""
    page.goto("/")
    expect(page.locator("#prompt")).to_be_visible()
    reached: list[str] = []

    def tab_to(name: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            reached.append(page.evaluate(NAME_OF_FOCUSED))
            if (reached[-1] or "").startswith(name):
                return
        raise AssertionError(f"{name} is not reached: {reached}")

    tab_to("Dark theme")
    page.keyboard.press("Space")
    assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "dark"
    tab_to("Prompt")
    page.keyboard.type("a red circle")
    tab_to("Scale")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_label("Scale").last).to_have_value("3.1")
    tab_to("constant")
    page.keyboard.press("ArrowRight")
    tab_to("Top-k")
    page.keyboard.press("Enter")
    expect(page.locator("dl")).to_contain_text("linear")
    tab_to("Edit")
    page.keyboard.press("Enter")
    tab_to("Keep the top")
    page.keyboard.type("6")
    tab_to("Inpaint")
    page.keyboard.press("Enter")
    expect(page.locator("dl")).to_contain_text("inpainted")
    tab_to("a red circle")
    assert all(reached), reached
    page.reload()
    assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "dark"


@pytest.mark.parametrize("names", [("tiny-text",), ("llamagen-demo", "llamagen-demo-class")])
def test_narrow_phone_does_not_scroll_sideways(page: Page, scenario: Scenario, names: tuple[str, ...]) -> None:
    scenario.names = names
    page.set_viewport_size({"width": 320, "height": 640})
    page.goto("/")

    def assert_fits() -> None:
        assert page.evaluate("document.documentElement.scrollWidth") == 320

    expect(page.get_by_label("Prompt")).to_be_visible()
    assert_fits()
    page.get_by_text("Settings", exact=True).click()
    assert_fits()
    generate(page, "a" * 200)
    assert_fits()
    page.get_by_role("button", name="Edit").click()
    assert_fits()
