"""Measures how well a server's images of a demo show what was asked for, and prints a table by guidance scale.

    make serve                  # in another terminal; with ARGS='--demo class' for the class demo
    python -m demo.evaluate

The server names the demo that it serves. Seeds count up from 0 over all images.
"""

from __future__ import annotations

import argparse
import io
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
from PIL import Image

from demo.judges import CaptionJudge, ClassJudge, Judge, variety
from demo.shapes.captions import NUM_TEST_CAPTIONS, TEST_SEED, held_out_captions

logger = logging.getLogger(__name__)

SCALES = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 7.5)
CONCURRENCY = 32
"""Simultaneous requests."""
SETTINGS: dict[str, type] = {
    "cfg_interval": int,
    "cfg_schedule": str,
    "cfg_min_p": float,
    "temperature": float,
    "top_k": int,
    "top_p": float,
}
"""Fields of ``POST /generate`` that are flags here."""

Scores = dict[str, float]


def generate(url: str, conditions: Sequence[Mapping[str, Any]], per_condition: int = 1, **settings: Any) -> np.ndarray:
    """Generates images for all conditions on the server at ``url``. Image i has the seed i.

    Args:
        conditions: fields of a request, one for each condition.
        settings: further fields of ``POST /generate``.

    Returns:
        uint8 [conditions, per_condition, S, S, 3].

    Raises:
        httpx.HTTPStatusError: the server rejects a request.
    """
    with httpx.Client(base_url=url, timeout=300) as client, ThreadPoolExecutor(CONCURRENCY) as threads:

        def image(seed: int) -> np.ndarray:
            body = {**conditions[seed // per_condition], "seed": seed, **settings}
            reply = client.post("/generate", json=body, headers={"accept": "image/png"})
            reply.raise_for_status()
            return np.asarray(Image.open(io.BytesIO(reply.content)))

        images = np.stack(list(threads.map(image, range(len(conditions) * per_condition))))
    return images.reshape(len(conditions), per_condition, *images.shape[1:])


def measure(url: str, judge: Judge, per_condition: int = 1, **settings: Any) -> Scores:
    """Generates images as `generate` does and judges them; several per condition also tell how much they vary."""
    images = generate(url, judge.conditions, per_condition, **settings)
    right, scores = judge.judge(images)
    return {**scores, **(variety(images, right) if per_condition > 1 else {})}


def table(results: Mapping[float, Scores]) -> str:
    """Markdown table with one row per guidance scale."""
    head = ["cfg_scale", *next(iter(results.values()))]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for scale, scores in results.items():
        lines.append("| " + " | ".join([f"{scale:g}", *(f"{share:.3f}" for share in scores.values())]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="address of the server")
    parser.add_argument("--scales", type=float, nargs="+", default=SCALES, help="guidance scales")
    parser.add_argument("--captions", type=int, default=NUM_TEST_CAPTIONS, help="number of captions, for the text demo")
    parser.add_argument("--caption-seed", type=int, default=TEST_SEED, help="another one makes other captions")
    parser.add_argument("--images", type=int, help="images per caption or class (default: 1 per caption, 5 per class)")
    for name, kind in SETTINGS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help="default: the model's")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    settings = {name: getattr(args, name) for name in SETTINGS}
    settings = {name: value for name, value in settings.items() if value is not None}
    [model, *_] = httpx.get(f"{args.url}/v1/models", timeout=60).raise_for_status().json()["data"]
    condition = model["condition"]
    judge = ClassJudge() if condition == "class" else CaptionJudge(held_out_captions(args.captions, args.caption_seed))
    per_condition = args.images or (5 if condition == "class" else 1)
    results = {}
    for scale in args.scales:
        results[scale] = measure(args.url, judge, per_condition, cfg_scale=scale, **settings)
        logger.info("cfg_scale %g: %.3f", scale, results[scale]["all"])
    print(table(results))


if __name__ == "__main__":
    main()
