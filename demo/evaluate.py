"""Measures how well a server's pictures follow their captions, on the held-out captions, for several guidance scales.

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

from demo.captions import NUM_TEST_CAPTIONS, Caption, held_out_captions
from demo.checker import check

logger = logging.getLogger(__name__)

SCALES = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
KINDS = ("count", "shape", "colour", "size", "position", "relation", "background")
CONCURRENCY = 32


@dataclass
class Adherence:
    """Counts over pictures.

    How many show every attribute, and per kind how many attributes were shown and asked for.
    """

    pictures: int = 0
    right: int = 0
    shown: Counter[str] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)

    def add(self, image: np.ndarray, caption: Caption) -> None:
        failures = check(image, caption.attributes)
        self.pictures += 1
        self.right += not failures
        self.asked.update(a.kind for a in caption.attributes)
        self.shown.update(a.kind for a in caption.attributes if a not in failures)

    @property
    def share(self) -> float:
        """Share of the pictures that show every attribute named."""
        return self.right / self.pictures

    def row(self) -> list[str]:
        return [f"{self.share:.3f}", *(f"{self.shown[k] / max(self.asked[k], 1):.3f}" for k in KINDS)]


def measure(url: str, captions: Sequence[Caption], **settings: Any) -> Adherence:
    """Has a server at ``url`` draw one picture per caption and checks it.

    Args:
        settings: further fields of ``POST /generate``. Caption i is drawn with seed i.
    """
    with httpx.Client(base_url=url, timeout=300) as client, ThreadPoolExecutor(CONCURRENCY) as threads:

        def draw(seed: int) -> np.ndarray:
            body = {"prompt": captions[seed].text, "seed": seed, **settings}
            reply = client.post("/generate", json=body, headers={"accept": "image/png"})
            reply.raise_for_status()
            return np.asarray(Image.open(io.BytesIO(reply.content)))

        adherence = Adherence()
        for image, caption in zip(threads.map(draw, range(len(captions))), captions, strict=True):
            adherence.add(image, caption)
        return adherence


def table(results: dict[float, Adherence]) -> str:
    """A markdown table with one row per scale."""
    head = ["cfg_scale", "all", *KINDS]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join([f"{scale:g}", *result.row()]) + " |" for scale, result in results.items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--scales", type=float, nargs="+", default=SCALES)
    parser.add_argument("--captions", type=int, default=NUM_TEST_CAPTIONS)
    parser.add_argument("--top-k", type=int, help="default: the model's")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    settings = {} if args.top_k is None else {"top_k": args.top_k}
    captions = held_out_captions(args.captions)
    results = {}
    for scale in args.scales:
        results[scale] = measure(args.url, captions, cfg_scale=scale, **settings)
        logger.info("cfg_scale %g: %.3f of %d pictures", scale, results[scale].share, len(captions))
    print(table(results))


if __name__ == "__main__":
    main()
