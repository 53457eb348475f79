"""Images of the class demo as codes, and what each code looks like: the data of the language model."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from demo.checkpoint import load_checkpoint, save_checkpoint
from demo.emoji.scenes import render, sample_scene
from llamagen_tokenizer.model import VQModel, from_uint8

COUNT = 20_000
"""Scenes for the language model, of 43,008 that there are."""
BATCH = 32


@torch.no_grad()
def encode_scenes(model: VQModel, cache: Path, count: int = COUNT, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Encodes sampled scenes, or reads them from the file ``cache`` if it is of the same image tokenizer.

    Returns:
        Class ids, int64 [count], and codes, int64 [count, tokens].
    """
    weights = hashlib.sha256(b"".join(value.numpy().tobytes() for value in model.state_dict().values())).hexdigest()
    made = {"count": count, "seed": seed, "weights": weights}
    if (stored := load_checkpoint(cache)) and made.items() <= stored.items():
        return stored["class_ids"].long(), stored["codes"].long()
    rng = random.Random(seed)
    scenes = [sample_scene(rng) for _ in range(count)]
    codes = []
    for start in tqdm(range(0, count, BATCH), "encode", disable=None):
        pixels = np.stack([render(scene) for scene in scenes[start : start + BATCH]])
        codes.append(model.encode(from_uint8(torch.from_numpy(pixels))).flatten(1))
    class_ids = torch.tensor([scene.class_id for scene in scenes])
    stored = {"class_ids": class_ids.to(torch.int16), "codes": torch.cat(codes).to(torch.int16)}
    save_checkpoint(cache, {**stored, **made})
    return class_ids, torch.cat(codes)


@torch.no_grad()
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
