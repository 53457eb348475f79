"""Measures how well a server's images follow the held-out captions and prints a table by guidance scale.

make serve                  # in another terminal
python -m demo.evaluate
"""

from __future__ import annotations

import argparse
import io
import logging
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
from PIL import Image

from demo.shapes.captions import NUM_TEST_CAPTIONS, Caption, held_out_captions
from demo.shapes.checker import check

logger = logging.getLogger(__name__)

SCALES = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
KINDS = ("count", "shape", "colour", "size", "position", "relation", "background")
CONCURRENCY = 32
"""Simultaneous requests."""


@dataclass
class Adherence:
    """Counts over images."""

    images: int = 0
    correct: int = 0
    """Images that show every attribute of their caption."""
    stated: Counter[str] = field(default_factory=Counter)
    """Attributes stated by the captions, by kind."""
    shown: Counter[str] = field(default_factory=Counter)
    """Stated attributes that the images show, by kind."""

    def add(self, image: np.ndarray, caption: Caption) -> None:
        failures = check(image, caption.attributes)
        self.images += 1
        self.correct += not failures
        self.stated.update(a.kind for a in caption.attributes)
        self.shown.update(a.kind for a in caption.attributes if a not in failures)

    @property
    def share(self) -> float:
        """Share of the images that show every attribute of their caption."""
        return self.correct / self.images

    def row(self) -> list[str]:
        """Cells of `table`: the share of correct images, then the share of shown attributes of each kind."""
        return [f"{self.share:.3f}", *(f"{self.shown[k] / max(self.stated[k], 1):.3f}" for k in KINDS)]


def measure(url: str, captions: Sequence[Caption], **settings: Any) -> Adherence:
    """Generates one image per caption on the server at ``url`` and checks it. Caption i uses seed i.

    Args:
        settings: further fields of ``POST /generate``.

    Raises:
        httpx.HTTPStatusError: the server rejects a request.
    """
    with httpx.Client(base_url=url, timeout=300) as client, ThreadPoolExecutor(CONCURRENCY) as threads:

        def generate(seed: int) -> np.ndarray:
            body = {"prompt": captions[seed].text, "seed": seed, **settings}
            reply = client.post("/generate", json=body, headers={"accept": "image/png"})
            reply.raise_for_status()
            return np.asarray(Image.open(io.BytesIO(reply.content)))

        adherence = Adherence()
        for image, caption in zip(threads.map(generate, range(len(captions))), captions, strict=True):
            adherence.add(image, caption)
        return adherence


def table(results: dict[float, Adherence]) -> str:
    """Markdown table with one row per guidance scale."""
    head = ["cfg_scale", "all", *KINDS]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join([f"{scale:g}", *result.row()]) + " |" for scale, result in results.items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="address of the server")
    parser.add_argument("--scales", type=float, nargs="+", default=SCALES, help="guidance scales")
    parser.add_argument("--captions", type=int, default=NUM_TEST_CAPTIONS, help="number of captions")
    parser.add_argument("--top-k", type=int, help="default: the model's")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    settings = {} if args.top_k is None else {"top_k": args.top_k}
    captions = held_out_captions(args.captions)
    results = {}
    for scale in args.scales:
        results[scale] = measure(args.url, captions, cfg_scale=scale, **settings)
        logger.info("cfg_scale %g: %.3f of %d images", scale, results[scale].share, len(captions))
    print(table(results))


if __name__ == "__main__":
    main()
