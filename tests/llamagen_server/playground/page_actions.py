"""Actions on the page that several tests share."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from playwright.sync_api import Locator, Page, expect

TIMEOUT_MS = 30_000

# Old values of the progress bars, in order, and the value that was set last.
RECORD_PROGRESS = """window.progress = [];
new MutationObserver((changes) => {
    for (const { oldValue, target } of changes) {
        progress.push(Number(oldValue));
        window.lastProgress = target.value;
    }
}).observe(document, { subtree: true, attributeFilter: ["value"], attributeOldValue: true });"""


def submit(page: Page, prompt: str) -> None:
    page.get_by_label("Prompt").fill(prompt)
    page.keyboard.press("Enter")


def generate(page: Page, prompt: str = "a red circle") -> None:
    """Generates one image and waits for it."""
    submit(page, prompt)
    expect(page.get_by_role("status")).to_have_text(re.compile(r"^1 image in \d+\.\d s\.$"))


def thumbnail(page: Page, name: str) -> Locator:
    """Button of an image in the history; a tile in the display may have the same name."""
    return page.get_by_role("region", name="History").get_by_role("button", name=name)


def shown_seed(page: Page) -> str:
    """Seed of the image in the viewer."""
    return page.locator("dl div", has_text="seed").locator("dd").inner_text()


def copied_command(page: Page) -> str:
    page.get_by_role("button", name="Copy as curl").click()
    expect(page.get_by_role("status")).to_have_text("Command copied to the clipboard.")
    return page.evaluate("navigator.clipboard.readText()")


def run_copied_command(page: Page, folder: Path) -> None:
    subprocess.run(["bash", "-ec", copied_command(page)], cwd=folder, check=True, capture_output=True)


def download(page: Page) -> tuple[str, bytes]:
    """Name and content of the downloaded file."""
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Download").click()
    return waiting.value.suggested_filename, Path(waiting.value.path()).read_bytes()


def check_every_action(page: Page, folder: Path) -> None:
    """Generates, repeats, downloads, inpaints and varies an image; works with any server that has a text model."""
    prompt = "a large red circle on a white background"
    page.add_init_script(RECORD_PROGRESS)
    page.goto("/")
    submit(page, prompt)
    expect(page.get_by_role("button", name="Vary")).to_be_visible()
    image = page.get_by_role("region", name="Image").get_by_role("img", name=prompt)
    assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") >= 64
    progress = page.evaluate("progress")
    assert len(progress) >= 5  # at least four previews and the finished image
    assert progress == sorted(set(progress))
    assert page.evaluate("lastProgress") == 1

    page.get_by_role("button", name="Keep this seed").click()
    page.get_by_label("Scale").last.fill("5.5")
    first_seed = shown_seed(page)
    assert download(page)[0] == f"a-large-red-circle-on-a-white-background-{first_seed}.png"
    generate(page, prompt)
    expect(page.locator("dl")).to_contain_text("guidance5.5")
    assert shown_seed(page) == first_seed
    check_copied_command(page, folder)

    page.get_by_role("button", name="Edit").click()
    page.get_by_label("Keep the top").fill("4")
    page.get_by_role("button", name="Inpaint").click()
    expect(page.locator("dl")).to_contain_text("inpainted")
    name = check_copied_command(page, folder)

    page.get_by_role("button", name="Vary").click()
    expect(page.locator("#thumbs li:not(#running)")).to_have_count(4)
    expect(page.get_by_role("button", name="Vary")).to_be_visible()
    assert download(page)[0] != name


def check_copied_command(page: Page, folder: Path) -> str:
    """The copied command writes the same file as the download. Returns its name."""
    name, file = download(page)
    run_copied_command(page, folder)
    assert (folder / name).read_bytes() == file
    return name
