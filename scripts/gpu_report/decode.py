"""Part ``decode``: the stage that decodes pixels, in float32 and in bfloat16.

Two image tokenizers: one of the official shape with random weights and random codes, for the speed; and the demo's,
with the codes of rendered scenes, whose pixels the rounding to bfloat16 changes as in a trained network.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import json
import math
import random
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from demo.shapes.scenes import render, sample_scene
from numpy.typing import NDArray

from llamagen_server.engine.environment import set_process_defaults
from llamagen_server.stages.image_tokenizer import ImageTokenizerStage
from llamagen_tokenizer import VQModel, from_uint8, load_vq
from llamagen_tokenizer.config import CONFIGS

OFFICIAL = "VQ-16"
DTYPES = ("float32", "bfloat16")
ROUNDS = 3
"""Timed rounds over all images; the median counts."""

Codes = list[list[int]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image-size", type=int, default=384, help="side of the official image tokenizer's images")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--images", type=int, default=64, help="images in a round")
    parser.add_argument("--save-result", type=Path, required=True)
    args = parser.parse_args()
    set_process_defaults()
    rows = [
        row
        for name, vq, codes in (official(args.image_size, args.images), demo(args.images))
        for row in measure(name, vq, codes, args.batch)
    ]
    args.save_result.write_text(json.dumps({"rows": rows}))


def official(side: int, images: int) -> tuple[str, VQModel, Codes]:
    torch.manual_seed(0)
    config = CONFIGS[OFFICIAL]
    codes = torch.randint(config.codebook_size, (images, (side // config.downsample) ** 2))
    return f"{OFFICIAL}, random weights", VQModel(config), codes.tolist()


def demo(images: int) -> tuple[str, VQModel, Codes]:
    from llamagen_server.pipeline.build import DEMO_MODEL

    vq = load_vq(DEMO_MODEL / "vq")
    scenes = (sample_scene(random.Random(seed)) for seed in range(images))
    pixels = torch.from_numpy(np.stack([render(scene) for scene in scenes]))
    with torch.inference_mode():
        return "demo", vq, vq.encode(from_uint8(pixels)).flatten(1).tolist()


def measure(name: str, vq: VQModel, codes: Codes, batches: list[int]) -> Iterator[dict[str, Any]]:
    """Yields a row of figures for each dtype and batch size."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    exact: NDArray[np.uint8] | None = None
    for dtype in DTYPES:
        model = copy.deepcopy(vq).requires_grad_(False).decode_in(getattr(torch, dtype)).to(device)
        for batch in batches:
            seconds, pixels = asyncio.run(decode(model, codes, batch))
            row = {"image_tokenizer": name, "pixels": pixels.shape[1], "dtype": dtype, "batch": batch}
            row["images_per_s"] = len(codes) / seconds
            if exact is None:
                exact = pixels
            if dtype != DTYPES[0]:
                row["psnr_db"] = psnr(exact, pixels)
            yield row


async def decode(vq: VQModel, codes: Codes, batch: int) -> tuple[float, NDArray[np.uint8]]:
    """Returns the seconds of a round, and the pixels [images, side, side, 3]."""
    stage = ImageTokenizerStage(vq, math.isqrt(len(codes[0])), batch)
    seconds = []
    for round_ in range(ROUNDS + 1):
        start = time.perf_counter()
        images = await asyncio.gather(*(stage.decode_image(image) for image in codes))
        if round_ > 0:  # the first round warms up
            seconds.append(time.perf_counter() - start)
    stage.shutdown()
    return statistics.median(seconds), np.stack(images)


def psnr(exact: NDArray[np.uint8], pixels: NDArray[np.uint8]) -> float | None:
    """Returns the peak signal-to-noise ratio in dB; None if the pixels are the same."""
    error = float(np.mean((exact.astype(np.float64) - pixels) ** 2))
    return 10 * math.log10(255**2 / error) if error else None


if __name__ == "__main__":
    main()
