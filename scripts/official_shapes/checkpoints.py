"""Checkpoints of random weights in the official format."""

from __future__ import annotations

from pathlib import Path

import torch
from tests.helpers.encoder_files import write_t5
from torch import Tensor

from llamagen_server.convert.options import ConvertOptions
from llamagen_server.hub.catalogue import TOKENIZERS, NamedModel
from llamagen_tokenizer import CONFIGS, VQConfig, VQModel
from llamagen_tokenizer.checkpoint import STATISTICS
from vllm_llamagen.config import LlamaGenConfig
from vllm_llamagen.weights import official_shapes

STD = 0.02
"""Standard deviation of the weights, that of the official initialisation."""


def random_gpt(config: LlamaGenConfig, seed: int = 0) -> dict[str, Tensor]:
    """Returns an official state dict in bfloat16: normal numbers, around 1 in the norms."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.empty(shape, dtype=torch.bfloat16).normal_(float(len(shape) == 1), STD, generator=generator)
        for name, shape in official_shapes(config).items()
    }


def random_vq(config: VQConfig, seed: int = 0) -> dict[str, Tensor]:
    """Returns an official state dict of an image tokenizer in float32, with the counts that training leaves in it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        weights = VQModel(config).state_dict()
    return {**weights, STATISTICS: torch.zeros(65536)}


def write_checkpoints(model: NamedModel, folder: Path) -> ConvertOptions:
    """Writes both checkpoints under their official names, for a text model also a text encoder of one layer."""
    gpt, vq = folder / model.file.name, folder / TOKENIZERS[model.tokenizer].file.name
    torch.save({"model": random_gpt(model.config)}, gpt)
    torch.save({"model": random_vq(CONFIGS[TOKENIZERS[model.tokenizer].config])}, vq)
    encoder = folder / "t5" if model.condition == "text" else None
    if encoder:
        write_t5(encoder, width=model.config.caption_dim, layers=1)
    return ConvertOptions(gpt_ckpt=gpt, vq_ckpt=vq, text_encoder=encoder, out=folder / "model")
