"""Compares two codebooks for the text demo: the table of its patches, and one learnt by LlamaGen's objective.

    python -m demo.studies.learned_codebook --out demo/runs/learned

Trains an image tokenizer as the class demo's is, on images of 32 px of the text demo's scenes. Then it trains a small
language model on either kind of codes, for as many steps and with the same scenes, and judges the images of
held-out captions. A finished part is not repeated.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from demo.checkpoint import load_trained_vq
from demo.emoji.codes import code_features
from demo.emoji.train_vq import EmojiVQTrainer, prepare
from demo.judges import CaptionJudge
from demo.model import GPTConfig
from demo.shapes.captions import held_out_captions, held_out_scenes
from demo.shapes.patches import PATCH, patch_table
from demo.shapes.scenes import IMAGE_SIZE, render, sample_scene
from demo.shapes.train_ar import ARTrainer, TextToImage, load_trained_ar
from demo.training import LOG_FORMAT, Budget, run
from llamagen_tokenizer.model import VQModel

logger = logging.getLogger(__name__)

CONFIG = GPTConfig(dim=192, n_layer=4)
"""Smaller than the demo's, so that the comparison takes an hour."""
SCALES = (1.0, 2.0, 4.0, 7.5)
CFG_MIN_P = 0.1
"""``cfg_min_p`` of all images; the temperature is 1."""

Encode = Callable[[Sequence[np.ndarray]], Tensor]
"""Images, uint8 [128, 128, 3] -> codes, int64 [B, 64]."""
Decode = Callable[[Tensor], Tensor]
"""Codes, int64 [B, 64] -> images of 32 px, float32 [B, 3, 32, 32] in [-1, 1]."""


def learnt(vq: VQModel) -> tuple[Encode, Decode, Tensor]:
    """Encoder, decoder and features of the codes of a learnt image tokenizer."""

    @torch.no_grad()
    def encode(images: Sequence[np.ndarray]) -> Tensor:
        return vq.encode(prepare(list(images), vq.config)).flatten(1)

    @torch.no_grad()
    def decode(codes: Tensor) -> Tensor:
        return vq.decode(codes.view(-1, 8, 8))

    return encode, decode, code_features(vq)


def patches() -> tuple[Encode, Decode, Tensor]:
    """The same of the table of patches, whose codes show exactly their patch."""
    table = patch_table()
    pixels = np.stack([np.frombuffer(patch, np.uint8).reshape(PATCH, PATCH, 3) for patch in table.code_of])
    small = F.avg_pool2d(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1, PATCH // 4)

    def decode(codes: Tensor) -> Tensor:
        grid = small[codes].unflatten(1, (8, 8))  # [B, 8, 8, 3, 4, 4]
        return grid.permute(0, 3, 1, 4, 2, 5).reshape(len(codes), 3, 32, 32)

    return table.batch_codes, decode, table.features


@torch.no_grad()
def sample(models: TextToImage, captions: Sequence[str], scale: float, seed: int = 0) -> Tensor:
    """Samples one image of each caption at temperature 1 and `CFG_MIN_P`, as codes, int64 [B, block_size]."""
    generator = torch.Generator().manual_seed(seed)
    text, valid = models.encoder(captions)
    drop = torch.arange(2 * len(text)) >= len(text)
    codes = torch.empty(len(text), 0, dtype=torch.long)
    for _ in range(models.gpt.config.block_size):
        both = models.gpt(text.repeat(2, 1, 1), valid.repeat(2, 1), codes.repeat(2, 1), drop)[:, -1]
        conditional, unconditional = both.log_softmax(-1).chunk(2)
        least = conditional.amax(-1, keepdim=True) + np.log(CFG_MIN_P)
        mixed = unconditional + scale * (conditional - unconditional)
        chances = mixed.masked_fill(conditional < least, -torch.inf).softmax(-1)
        codes = torch.cat([codes, torch.multinomial(chances, 1, generator=generator)], dim=1)
    return codes


def large(images: Tensor) -> np.ndarray:
    """Images [B, 3, 32, 32] in [-1, 1], enlarged to the size that the judge reads: uint8 [B, 1, 128, 128, 3]."""
    enlarged = F.interpolate(images, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bicubic").clamp(-1, 1)
    pixels: np.ndarray = ((enlarged + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    return pixels[:, None]


def usage(encode: Encode, count: int) -> dict[str, float]:
    """Codes used by ``count`` scenes, and by their plain patches, which are half of all patches or more."""
    table, rng = patch_table(), random.Random(0)
    images = [scene(rng) for _ in range(count)]
    codes = torch.cat([encode(images[i : i + 32]) for i in range(0, count, 32)])
    plain = table.plain[table.batch_codes(images)]
    return {"codes used": len(codes.unique()), "codes of plain patches": len(codes[plain].unique())}


def scene(rng: random.Random) -> np.ndarray:
    """A new image, uint8 [128, 128, 3]."""
    return render(sample_scene(rng))


def reconstructions(encode: Encode, decode: Decode, count: int) -> dict[str, float]:
    """Scores of real images of held-out captions after encoding and decoding: the best that samples can reach."""
    scenes, captions = zip(*held_out_scenes(count), strict=True)
    judge, images = CaptionJudge(captions), [render(each) for each in scenes]
    return judge.scores(large(torch.cat([decode(encode(images[i : i + 32])) for i in range(0, count, 32)])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory of the runs")
    parser.add_argument("--vq-steps", type=int, default=800)
    parser.add_argument("--steps", type=int, default=1500, help="steps of each language model")
    parser.add_argument("--captions", type=int, default=300)
    parser.add_argument("--config", type=json.loads, default={}, help="fields of GPTConfig that differ, as JSON")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
    run(EmojiVQTrainer(Budget(steps=args.vq_steps), source=scene), args.out / "vq")
    judge = CaptionJudge(held_out_captions(args.captions))
    captions = [caption.text for caption in judge.captions]
    kinds = {"patches": patches(), "learnt": learnt(load_trained_vq(args.out / "vq" / "checkpoint.pt"))}
    for name, (encode, decode, features) in kinds.items():
        config = replace(CONFIG, vocab_size=len(features), **args.config)
        trainer = ARTrainer(Budget(steps=args.steps), config=config, features=features, encode=encode)
        run(trainer, args.out / name)
        logger.info("%s: %s", name, usage(encode, 512))
        logger.info("%s, reconstructions: %s", name, reconstructions(encode, decode, args.captions))
        models = load_trained_ar(args.out / name / "checkpoint.pt")
        for scale in SCALES:
            scores = judge.scores(large(decode(sample(models, captions, scale))))
            logger.info("%s, cfg_scale %g: %s", name, scale, {kind: round(share, 3) for kind, share in scores.items()})


if __name__ == "__main__":
    main()
