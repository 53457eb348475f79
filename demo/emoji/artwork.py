"""Renders the artwork of the classes from the font, into the sheet that all other modules read.

    apt install fonts-noto-color-emoji
    python -m demo.emoji.artwork

The sheet lies in the repository, so that training and tests need no font. It was rendered from version 2.042 of Noto
Color Emoji (Debian 12), whose licence is in ``OFL.txt``.
"""

from __future__ import annotations

import argparse
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from demo.emoji.classes import CLASSES

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
FONT_SIZE = 109
"""The only size of the font's bitmaps, in pixels."""
SHEET = Path(__file__).with_name("artwork.png")
SIDE = 128
"""Side of an emoji in the sheet, in pixels."""
COLUMNS = 8


def render_sheet(font_file: Path = FONT) -> Image.Image:
    """Renders all classes, in rows of `COLUMNS`, RGBA.

    Raises:
        OSError: the font is missing.
    """
    font = ImageFont.truetype(str(font_file), FONT_SIZE)
    rows = -(-len(CLASSES) // COLUMNS)
    sheet = Image.new("RGBA", (COLUMNS * SIDE, rows * SIDE))
    for class_id, (emoji, *_) in enumerate(CLASSES):
        row, column = divmod(class_id, COLUMNS)
        sheet.paste(_square(emoji, font), (column * SIDE, row * SIDE))
    return sheet


def _square(emoji: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    """An emoji, as large as fits, RGBA [SIDE, SIDE]."""
    room = Image.new("RGBA", (2 * FONT_SIZE, 2 * FONT_SIZE))
    ImageDraw.Draw(room).text((FONT_SIZE // 4, FONT_SIZE // 4), emoji, font=font, embedded_color=True)
    cut = room.crop(room.getchannel("A").getbbox())
    side = max(cut.size)
    square = Image.new("RGBA", (side, side))
    square.paste(cut, ((side - cut.width) // 2, (side - cut.height) // 2))
    return square.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


@cache
def artwork() -> tuple[Image.Image, ...]:
    """The emoji of each class, RGBA [SIDE, SIDE]."""
    sheet = Image.open(SHEET).convert("RGBA")
    corners = [(i % COLUMNS * SIDE, i // COLUMNS * SIDE) for i in range(len(CLASSES))]
    return tuple(sheet.crop((x, y, x + SIDE, y + SIDE)) for x, y in corners)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--font", type=Path, default=FONT)
    render_sheet(parser.parse_args().font).save(SHEET, optimize=True)


if __name__ == "__main__":
    main()
