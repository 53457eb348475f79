"""Takes a screenshot of the playground after a click on "Guidance": the same seed at several scales.

    make serve                  # in another terminal
    python -m demo.playground_screenshot

It needs playwright (`make dev`) and Chromium, and writes ``docs/playground.png``.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

OUT = Path(__file__).parents[1] / "docs/playground.png"
PROMPT, SEED = "a large pink triangle above a small yellow circle on navy", 3
WIDTH, HEIGHT = 1280, 620
"""Size of the browser's window in pixels."""


def screenshot(page: Page, url: str, condition: str, seed: int, out: Path) -> None:
    """Generates an image of a prompt or a class on the page, then its guidance strip, and takes a screenshot."""
    page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
    page.goto(url)
    page.get_by_label("Seed", exact=True).fill(str(seed))
    page.locator("#prompt, #class_label").first.fill(condition)
    page.keyboard.press("Enter")  # chooses the class
    if page.locator("#class_label").count():
        page.keyboard.press("Enter")
    page.get_by_role("button", name="Guidance").click()
    page.get_by_text("4 images in").wait_for()
    page.wait_for_timeout(500)  # until the last image has grown
    page.screenshot(path=out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("condition", nargs="?", default=PROMPT, help="a prompt, or the name of a class")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="address of the server")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        screenshot(page, args.url, args.condition, args.seed, args.out)
        browser.close()


if __name__ == "__main__":
    main()
