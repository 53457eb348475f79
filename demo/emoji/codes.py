"""All images of the class demo as codes, and what each code looks like: the data of the language model."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from demo.checkpoint import load_checkpoint, save_checkpoint
from demo.emoji.classes import CLASSES
from demo.emoji.scenes import BACKGROUNDS, IMAGE_SIZE, PATCH, ROTATIONS, SIZES, Scene, render
from llamagen_tokenizer.model import VQModel, from_uint8

BATCH = 32


def all_scenes() -> Iterator[Scene]:
    """Every image that `demo.emoji.scenes` can sample."""
    for class_id, size, rotation, mirrored in product(range(len(CLASSES)), SIZES, ROTATIONS, (False, True)):
        places = range(0, IMAGE_SIZE - size + 1, PATCH)
        for x, y, background in product(places, places, range(len(BACKGROUNDS))):
            yield Scene(class_id, size, x, y, rotation, mirrored, background)


@torch.inference_mode()
def encode_all(model: VQModel, cache: Path) -> tuple[Tensor, Tensor]:
    """Encodes `all_scenes`, or reads them from the file ``cache``, which belongs to the same image tokenizer.

    Returns:
        Class ids, int64 [N], and codes, int64 [N, tokens].
    """
    if stored := load_checkpoint(cache):
        return stored["class_ids"].long(), stored["codes"].long()
    scenes = list(all_scenes())
    codes = []
    for start in tqdm(range(0, len(scenes), BATCH), "encode", disable=None):
        pixels = np.stack([render(scene) for scene in scenes[start : start + BATCH]])
        codes.append(model.encode(from_uint8(torch.from_numpy(pixels))).flatten(1))
    class_ids = torch.tensor([scene.class_id for scene in scenes])
    save_checkpoint(cache, {"class_ids": class_ids.to(torch.int16), "codes": torch.cat(codes).to(torch.int16)})
    return class_ids, torch.cat(codes)


@torch.inference_mode()
def code_features(model: VQModel) -> Tensor:
    """What each code looks like: its vector and the pixels of a patch among patches of its own kind.

    Returns:
        float32 [codebook_size, F] with mean 0.
    """
    side, count = model.config.downsample, model.config.codebook_size
    patches = []
    for codes in torch.arange(count).split(64):
        images = model.decode(codes[:, None, None].expand(-1, 3, 3).contiguous())
        patches.append(F.avg_pool2d(images[:, :, side : 2 * side, side : 2 * side], side // 4).flatten(1))
    vectors = model.quantize.codebook() * model.config.codebook_embed_dim**0.5 / 2
    features = torch.cat([vectors, torch.cat(patches).clamp(-1, 1)], dim=1)
    return features - features.mean(0)
