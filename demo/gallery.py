"""Generates images of a demo on a running server: the playground's examples, and sheets by guidance scale for the docs.

    make serve                  # in another terminal; with ARGS='--demo class' for the class demo
    python -m demo.gallery

Writes ``examples_text`` or ``examples_class`` (``.json``: a recipe for each image, ``.webp``: the sheet) into the
playground's folder, and ``docs/demo_text.webp`` or ``docs/demo_class.webp``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from demo.emoji.classes import CLASSES
from demo.emoji.classifier import certainty, load_classifier
from demo.evaluate import generate
from demo.shapes.captions import held_out_captions

ROOT = Path(__file__).parents[1]
PLAYGROUND = ROOT / "server/llamagen_server/playground"
QUALITY = 90
"""Quality of WebP files."""
PROMPTS = (
    "a large red circle on a white background",
    "a small yellow diamond above a large blue square",
    "a green triangle in the top left corner on navy",
    "an orange square left of a purple circle on beige",
    "a small pink circle in the centre on black",
    "a cyan triangle below a small red square on grey",
    "a large green diamond on a navy background",
    "a blue circle right of a yellow triangle",
    "a purple square in the bottom right corner on white",
    "a small orange diamond left of a small cyan diamond on black",
    "a red triangle above a green circle on beige",
    "a large pink square on a grey background",
)
SCALES = (1.0, 4.0, 7.5)
"""Guidance scales of the sheet in the docs."""
CAPTION_SEED = 7
"""Seed of the held-out captions on the sheet."""


def arrange(images: np.ndarray, columns: int) -> Image.Image:
    """Arranges images, uint8 [N, S, S, 3], in rows of ``columns``."""
    side = images.shape[1]
    sheet = Image.new("RGB", (columns * side, -(-len(images) // columns) * side), "white")
    for i, pixels in enumerate(images):
        sheet.paste(Image.fromarray(pixels), (i % columns * side, i // columns * side))
    return sheet


def write_examples(url: str, kind: str) -> None:
    """Writes the playground's examples of the demo ``kind``. Of an emoji, the clearest of four images is taken."""
    if kind == "class":
        columns, tries = 8, 4
        conditions: list[dict[str, Any]] = [{"class_id": i} for i in range(len(CLASSES))]
    else:
        columns, tries = 4, 1
        conditions = [{"prompt": prompt} for prompt in PROMPTS]
    images = generate(url, conditions, tries)
    best = [0] * len(images)
    if kind == "class":
        classifier = load_classifier()
        best = [int(certainty(classifier, group, i).argmax()) for i, group in enumerate(images)]
    recipes = [{**condition, "seed": i * tries + best[i]} for i, condition in enumerate(conditions)]
    sheet = arrange(np.stack([group[choice] for group, choice in zip(images, best, strict=True)]), columns)
    sheet.save(PLAYGROUND / f"examples_{kind}.webp", quality=QUALITY)
    lines = ",\n".join(f"    {{ {json.dumps(recipe)[1:-1]} }}" for recipe in recipes)
    text = f'{{\n  "columns": {columns},\n  "recipes": [\n{lines}\n  ]\n}}\n'
    (PLAYGROUND / f"examples_{kind}.json").write_text(text)


def write_sheet(url: str, kind: str) -> None:
    """Writes a sheet for the docs: the same conditions and seeds in a block of rows for each guidance scale."""
    columns, count = (16, 64) if kind == "class" else (8, 16)
    if kind == "class":
        conditions: list[dict[str, Any]] = [{"class_id": i} for i in range(count)]
    else:
        conditions = [{"prompt": caption.text} for caption in held_out_captions(count, CAPTION_SEED)]
    sheets = {scale: arrange(generate(url, conditions, cfg_scale=scale)[:, 0], columns) for scale in SCALES}
    blocks = [_titled(sheet, f"cfg_scale {scale:g}") for scale, sheet in sheets.items()]
    rows = np.concatenate([np.asarray(block) for block in blocks])
    Image.fromarray(rows).save(ROOT / f"docs/demo_{kind}.webp", quality=QUALITY)


def _titled(sheet: Image.Image, title: str) -> Image.Image:
    """The sheet below a line of text."""
    block = Image.new("RGB", (sheet.width, sheet.height + 28), "white")
    ImageDraw.Draw(block).text((8, 5), title, fill="black", font=ImageFont.load_default(16))
    block.paste(sheet, (0, 28))
    return block


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="address of the server")
    url = parser.parse_args().url
    [model, *_] = httpx.get(f"{url}/v1/models", timeout=60).raise_for_status().json()["data"]
    write_examples(url, model["condition"])
    write_sheet(url, model["condition"])


if __name__ == "__main__":
    main()
