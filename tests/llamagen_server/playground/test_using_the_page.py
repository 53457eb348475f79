"""The page at ``GET /``: its files, and a browser that uses it against a stand-in server.

Every test but those that ask for ``stage`` runs against any server with a text model: import the test, ``browser`` and
``page``, and give a ``page_url`` of your own.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from playwright.sync_api import Browser, Page, expect, sync_playwright
from tests.llamagen_server.playground.stand_in_server import GRID, Stage, make_app, serve

from llamagen_server.api.routes import playground

CHROMIUM = "/usr/bin/chromium"
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)

TIMEOUT = 30_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not Path(CHROMIUM).exists():
        pytest.skip(f"{CHROMIUM} is missing")
    expect.set_options(timeout=TIMEOUT)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield browser
        browser.close()


@pytest.fixture
def stage() -> Stage:
    return Stage()


@pytest.fixture
def page_url(stage: Stage) -> Iterator[str]:
    with serve(make_app(stage)) as url:
        yield url


@pytest.fixture
def page(browser: Browser, page_url: str) -> Iterator[Page]:
    """A new window, with nothing loaded yet; fails if a script fails or the security policy forbids something."""
    context = browser.new_context(base_url=page_url, permissions=["clipboard-read", "clipboard-write"])
    context.set_default_timeout(TIMEOUT)
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if "Security Policy" in message.text else None)
    yield page
    context.close()
    assert not wrong


def ask(page: Page, prompt: str) -> None:
    page.get_by_label("Prompt").fill(prompt)
    page.keyboard.press("Enter")


def generate(page: Page, prompt: str = "a red circle") -> None:
    """Asks for one picture and waits for it."""
    ask(page, prompt)
    expect(page.get_by_role("status")).to_have_text(re.compile(r"^One picture in"))


def clipboard(page: Page) -> str:
    page.get_by_role("button", name="Copy as curl").click()
    expect(page.get_by_role("status")).to_have_text("The command is on the clipboard.")
    return page.evaluate("navigator.clipboard.readText()")


def run_copied_command(page: Page, folder: Path) -> None:
    subprocess.run(["bash", "-ec", clipboard(page)], cwd=folder, check=True, capture_output=True)


def download(page: Page) -> tuple[str, bytes]:
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Download").click()
    return waiting.value.suggested_filename, Path(waiting.value.path()).read_bytes()


def seed(page: Page) -> str:
    return page.locator("dl div", has_text="seed").locator("dd").inner_text()


WATCH_PROGRESS = """window.progress = [];
new MutationObserver((changes) => progress.push(...changes.map(({ target }) => target.value)))
    .observe(document, { subtree: true, attributeFilter: ["value"] });"""
NAME_OF_FOCUSED = """(({ ariaLabel, labels, innerText, firstElementChild }) =>
    ariaLabel || labels?.[0]?.innerText || innerText || firstElementChild?.alt)(document.activeElement)"""


# The files


@pytest.fixture(scope="module")
def client() -> TestClient:
    app = FastAPI()
    app.include_router(playground.router)
    return TestClient(app)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/playground/app.js", "text/javascript; charset=utf-8"),
        ("/playground/style.css", "text/css; charset=utf-8"),
        ("/playground/icon.svg", "image/svg+xml"),
    ],
)
def test_files(client: TestClient, path: str, kind: str) -> None:
    reply = client.get(path)
    assert (reply.status_code, reply.headers["content-type"]) == (200, kind)
    assert reply.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
    assert reply.headers["cache-control"] == "no-cache"
    again = client.get(path, headers={"if-none-match": reply.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.head(path).headers["content-length"] == reply.headers["content-length"]


@pytest.mark.parametrize("name", ["nothing.js", "..%2fapi%2fapp.py", "%2e%2e", "app.py"])
def test_nothing_else_is_served(client: TestClient, name: str) -> None:
    assert client.get(f"/playground/{name}").status_code == 404


def test_the_page_is_no_part_of_the_api_and_needs_nothing_from_elsewhere(client: TestClient) -> None:
    assert client.get("/openapi.json").json()["paths"] == {}
    for file in playground.FOLDER.iterdir():
        addresses = re.findall(r"(?:https?:)?//[\w.-]+\.\w+", file.read_text())
        assert set(addresses) <= {"http://www.w3.org"}, file.name


# Any text model


@pytest.mark.browser
def test_from_a_prompt_to_pictures(page: Page, tmp_path: Path) -> None:
    page.add_init_script(WATCH_PROGRESS)
    page.goto("/")
    ask(page, "a large red circle on a white background")
    picture = page.get_by_role("group", name="Picture").get_by_role("img", name="a large red circle")
    expect(page.get_by_role("button", name="Vary")).to_be_visible()
    assert picture.evaluate("image => image.complete && image.naturalWidth") >= 64
    progress = page.evaluate("progress")
    assert progress == sorted(progress)
    assert (len(progress) >= 4, progress[-1]) == (True, 1)  # previews, and the whole picture

    page.get_by_role("button", name="Keep this seed").click()
    page.get_by_label("Scale").last.fill("5.5")
    first = seed(page)
    assert download(page)[0] == f"a-large-red-circle-on-a-white-background-{first}.png"
    generate(page, "a large red circle on a white background")
    expect(page.locator("dl")).to_contain_text("guidance5.5")
    assert seed(page) == first
    name, file = download(page)

    run_copied_command(page, tmp_path)
    assert (tmp_path / name).read_bytes() == file

    page.get_by_role("button", name="Edit").click()
    page.get_by_label("Keep the top").fill("4")
    page.get_by_role("button", name="Redraw marked").click()
    expect(page.locator("dl")).to_contain_text("redrawn")
    name, file = download(page)
    run_copied_command(page, tmp_path)
    assert (tmp_path / name).read_bytes() == file

    page.get_by_role("button", name="Vary").click()
    expect(page.locator("#thumbs li")).to_have_count(5)  # one stands for what is being drawn
    expect(page.get_by_role("button", name="Vary")).to_be_visible()
    assert download(page)[0] != name


@pytest.mark.browser
def test_history_outlives_a_reload(page: Page) -> None:
    page.goto("/")
    page.get_by_label("Temperature").last.fill("0.5")
    generate(page, "a blue square")
    page.get_by_label("Temperature").last.fill("1.25")
    generate(page, "a green star")
    first = page.get_by_role("button", name="a blue square")
    expect(first).to_be_visible()
    page.reload()
    expect(page.get_by_label("Prompt")).to_have_value("a green star")
    first.click()
    expect(first).to_have_attribute("aria-current", "true")
    expect(page.get_by_label("Prompt")).to_have_value("a blue square")
    expect(page.get_by_label("Temperature").last).to_have_value("0.5")
    expect(page.get_by_label("Seed", exact=True)).to_have_value(seed(page))
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Clear history").click()
    expect(page.get_by_text("Your pictures appear here")).to_be_visible()
    page.reload()
    expect(page.get_by_text("Your pictures appear here")).to_be_visible()
    expect(first).to_have_count(0)


@pytest.mark.browser
def test_keyboard_alone(page: Page) -> None:
    """Every control has a name and is reached by Tab; a picture is made, found in the history and edited."""
    page.goto("/")
    page.wait_for_selector("#prompt:visible")
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
    tab_to("Redraw marked")
    page.keyboard.press("Enter")
    expect(page.locator("dl")).to_contain_text("redrawn")
    tab_to("a red circle")
    assert all(reached), reached
    page.reload()
    assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "dark"


@pytest.mark.browser
def test_a_narrow_phone_scrolls_in_one_direction_only(page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 640})
    page.goto("/")

    def assert_fits() -> None:
        assert page.evaluate("document.documentElement.scrollWidth") == 360

    expect(page.get_by_text("Your pictures appear here")).to_be_visible()
    assert_fits()
    page.get_by_text("Settings").click()
    assert_fits()
    generate(page, "a" * 200)
    assert_fits()
    page.get_by_role("button", name="Edit").click()
    assert_fits()


# The stand-in server only


@pytest.mark.browser
def test_marking_with_the_mouse(page: Page, stage: Stage, tmp_path: Path) -> None:
    page.goto("/")
    generate(page)
    page.get_by_role("button", name="Edit").click()
    page.get_by_role("button", name="Redraw marked").click()
    expect(page.get_by_role("status")).to_contain_text("Mark the part")

    def drag(*cells: tuple[int, int]) -> None:
        box = page.locator("canvas").bounding_box()
        assert box is not None
        for i, (row, column) in enumerate(cells):
            x, y = ((n + 0.5) * box["width"] / GRID for n in (column, row))
            page.mouse.move(box["x"] + x, box["y"] + y)
            if i == 0:
                page.mouse.down()
        page.mouse.up()

    drag((1, 1), (1, 4))
    drag((1, 4))  # takes the mark off
    page.get_by_text("Rectangle").click()
    drag((6, 7), (5, 6))
    page.get_by_role("button", name="Redraw marked").click()
    expect(page.locator("dl")).to_contain_text("redrawn7 cells")
    keep = stage.requests[-1]["keep"].resize((GRID, GRID), 0)
    marked = {divmod(i, GRID) for i, alpha in enumerate(keep.tobytes()) if alpha == 0}
    assert marked == {(1, 1), (1, 2), (1, 3), (5, 6), (5, 7), (6, 6), (6, 7)}
    assert stage.requests[-1]["prompt"] == "a red circle"
    run_copied_command(page, tmp_path)
    assert stage.requests[-1]["keep"].resize((GRID, GRID), 0) == keep


@pytest.mark.browser
def test_several_pictures_at_once(page: Page, stage: Stage) -> None:
    page.goto("/")
    page.get_by_label("Pictures", exact=True).fill("3")
    page.get_by_role("button", name="One picture more").click()
    page.get_by_label("Seed", exact=True).fill("7")
    ask(page, "a red circle")
    expect(page.get_by_role("status")).to_have_text("4 pictures in 1.2 s.")
    assert {k: stage.requests[-1][k] for k in ("n", "seed", "cfg_scale", "top_k")} == {
        "n": 4, "seed": 7, "cfg_scale": 3, "top_k": 0,
    }  # fmt: skip
    page.locator(".tile button").nth(2).click()
    assert seed(page) == "9"
    expect(page.get_by_label("Seed", exact=True)).to_have_value("9")


@pytest.mark.browser
def test_cancel_hangs_up(page: Page, stage: Stage) -> None:
    stage.step = 0.5
    page.goto("/")
    ask(page, "a red circle")
    page.wait_for_selector(".tile img[src^='data:']")
    page.keyboard.press("Escape")
    expect(page.get_by_role("status")).to_have_text("Cancelled.")
    expect(page.get_by_role("button", name="Cancel")).to_be_hidden()
    page.wait_for_timeout(100)
    assert stage.cancelled == 1


@pytest.mark.browser
def test_errors_are_told_in_the_server_s_words(page: Page, stage: Stage) -> None:
    page.goto("/")
    ask(page, "refuse")
    expect(page.get_by_role("alert")).to_have_text("prompt is 'refuse': not today")
    stage.error = "the engine stopped; see the server's log"
    ask(page, "a red circle")
    expect(page.get_by_role("alert")).to_have_text(stage.error)
    stage.error = None
    generate(page)
    expect(page.get_by_role("alert")).to_be_hidden()


@pytest.mark.browser
def test_a_server_with_a_key(page: Page, stage: Stage) -> None:
    stage.key = "secret"
    page.goto("/")
    for key in ("wrong", "secret"):
        page.get_by_label("API key").fill(key)
        page.keyboard.press("Enter")
    generate(page)
    assert "$LLAMAGEN_API_KEY" in clipboard(page)
    assert page.evaluate("JSON.stringify(localStorage)") == "{}"
    stage.key = "another"  # in the middle of a session
    ask(page, "a blue square")
    page.get_by_label("API key").fill("another")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="a blue square")).to_be_visible()


@pytest.mark.browser
def test_a_server_that_still_loads(page: Page, stage: Stage) -> None:
    stage.ready = False
    page.goto("/")
    expect(page.get_by_text("The model is loading. The page goes on by itself.")).to_be_visible()
    stage.ready = True
    generate(page)


@pytest.mark.browser
def test_class_model_without_guidance(page: Page, stage: Stage) -> None:
    stage.condition, stage.guided = "class", False
    page.goto("/")
    field = page.get_by_role("combobox", name="Class")
    field.fill("aura")
    expect(page.get_by_role("option")).to_have_text(["goldfishCarassius auratus · 1"])
    page.keyboard.press("Enter")
    expect(field).to_have_value("goldfish")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="goldfish (class 1)")).to_be_visible()
    expect(page.get_by_text("Guidance")).to_be_hidden()
    request = stage.requests[-1]
    assert (request["class_id"], request["cfg_scale"], "cfg_schedule" in request) == (1, 1, False)
    field.click()
    expect(page.get_by_role("option")).to_have_count(3)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Escape")
    expect(field).to_have_value("goldfish")
