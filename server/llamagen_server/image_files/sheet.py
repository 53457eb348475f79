"""Contact sheets: several images in one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llamagen_server.core.results import Pixels


def contact_sheet(images: Sequence[Pixels], columns: int, gap: int = 8) -> Pixels:
    """Places images [height, width, 3] of one size side by side on white, ``gap`` pixels apart."""
    height, width, _ = images[0].shape
    rows = -(-len(images) // columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet
