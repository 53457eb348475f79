"""Measures how well pictures follow their captions, on the held-out captions, for several guidance scales.

python -m demo.evaluate --models demo/runs/export
"""

from __future__ import annotations

import argparse
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch

from demo.captions import NUM_TEST_CAPTIONS, Caption, held_out_captions
from demo.checker import check
from demo.export import load_exported
from demo.generate import Sampling
from demo.scenes import IMAGE_SIZE

logger = logging.getLogger(__name__)

SCALES = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
KINDS = ("count", "shape", "colour", "size", "position", "relation", "background")

Generate = Callable[[Sequence[str], float, int], np.ndarray]
"""Captions, cfg_scale and seed to pictures, uint8 [len(captions), H, W, 3]."""


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
        failures = check(as_checked(image), caption.attributes)
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


def as_checked(image: np.ndarray) -> np.ndarray:
    """The picture at the size that the checker knows."""
    if image.shape[0] == IMAGE_SIZE:
        return image
    return cv2.resize(image, (IMAGE_SIZE, IMAGE_SIZE), interpolation=cv2.INTER_LINEAR)


def measure(generate: Generate, captions: Sequence[Caption], cfg_scale: float, seed: int = 0) -> Adherence:
    """Generates one picture per caption and checks it."""
    adherence = Adherence()
    images = generate([c.text for c in captions], cfg_scale, seed)
    for image, caption in zip(images, captions, strict=True):
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
    parser.add_argument("--models", type=Path, default=Path("demo/runs/export"), help="a folder of demo.export")
    parser.add_argument("--scales", type=float, nargs="+", default=SCALES)
    parser.add_argument("--captions", type=int, default=NUM_TEST_CAPTIONS)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--top-k", type=int, default=0)
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    torch.set_num_threads(args.threads)
    sampling = Sampling(temperature=args.temperature, top_k=args.top_k, top_p=args.top_p)
    generate = load_exported(args.models, sampling)
    captions = held_out_captions(args.captions)
    results = {}
    for scale in args.scales:
        results[scale] = measure(generate, captions, scale, args.seed)
        logger.info("cfg_scale %g: %.3f of %d pictures", scale, results[scale].share, len(captions))
    print(table(results))


if __name__ == "__main__":
    main()
