"""Generates images without a server, with the engine inside this program."""

import argparse
from pathlib import Path

from PIL import Image

from llamagen_server import ImageEngine, ImageRequest

PROMPTS = ("a large red circle", "a small green square", "a blue triangle above a yellow circle")

if __name__ == "__main__":  # the engine is a new process, which imports this file
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, nargs="?", default="images", help="folder for the images")
    parser.add_argument("model", nargs="?", help="model directory (default: the demo model)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    with ImageEngine(args.model, enforce_eager=True) as engine:  # eager: starts sooner, runs slower
        results = engine.generate_batch([ImageRequest(prompt=prompt, seed=7) for prompt in PROMPTS])
    for i, result in enumerate(results):
        Image.fromarray(result.images[0].pixels).save(args.out / f"image-{i}.png")
