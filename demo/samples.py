"""Writes sheets of pictures: rendered scenes, reconstructions of the tokenizer, or pictures of a trained model.

python -m demo.samples --models demo/runs/export --out demo/runs/samples.png
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from demo.captions import held_out_captions
from demo.export import load_exported
from demo.generate import Sampling
from demo.scenes import render, sample_scene
from demo.train_vq import load_trained_vq, prepare, reconstruct

GAP = 4


def sheet(images: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Images of one size, uint8 [H, W, 3] each, in rows on white."""
    height, width = images[0].shape[:2]
    rows = -(-len(images) // columns)
    canvas = np.full((rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = (n * (side + GAP) + GAP for n, side in zip(divmod(i, columns), (height, width)))
        canvas[top : top + height, left : left + width] = image
    return canvas


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, help="a folder of demo.export: draw captions with it")
    parser.add_argument("--vq", type=Path, help="a checkpoint of demo.train_vq: reconstruct scenes with it")
    parser.add_argument("--prompts", nargs="+", help="instead of held-out captions")
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--columns", type=int, default=8)
    parser.add_argument("--cfg-scale", type=float, default=Sampling().cfg_scale)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    if args.models:
        prompts = args.prompts or [c.text for c in held_out_captions(args.count)]
        images = list(load_exported(args.models)(prompts, args.cfg_scale, args.seed))
        print("\n".join(f"{i // args.columns + 1}.{i % args.columns + 1} {p}" for i, p in enumerate(prompts)))
    else:
        images = [render(sample_scene(rng)) for _ in range(args.count)]
        if args.vq:
            vq = load_trained_vq(args.vq)
            torch.set_num_threads(2)
            images = list(reconstruct(vq, prepare(images, vq.config)))
    Image.fromarray(sheet(images, args.columns)).save(args.out)


if __name__ == "__main__":
    main()
