"""Sampling from the training model: guidance, temperature, top-k and top-p in the official order, with a KV cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from demo.model import GPT, KVCache, attention_mask
from demo.text import TextEncoder
from llamagen_tokenizer.model import VQModel, to_uint8


@dataclass(frozen=True)
class Sampling:
    """Temperature 0 is greedy; ``top_k`` 0 and ``top_p`` 1 switch the filters off."""

    cfg_scale: float = 3.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0


def filter_logits(logits: Tensor, sampling: Sampling) -> Tensor:
    """Divides by the temperature, then removes what top-k and then top-p leave out. Float32 [B, V]."""
    logits = logits / max(sampling.temperature, 1e-5)
    if sampling.top_k > 0:
        kth = logits.topk(min(sampling.top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    if sampling.top_p < 1.0:
        ordered, order = logits.sort(descending=True)
        shares = ordered.softmax(-1)
        removed = shares.cumsum(-1) - shares > sampling.top_p
        logits = logits.masked_fill(removed.scatter(1, order, removed), -torch.inf)
    return logits


@torch.no_grad()
def generate_codes(
    gpt: GPT, text: Tensor, valid: Tensor, sampling: Sampling, generator: torch.Generator | None = None
) -> Tensor:
    """Codes of one image per caption, int64 [B, block_size].

    ``text`` [B, T, caption_dim] and ``valid`` bool [B, T] are padded on the left. The unconditional stream has the
    last T rows of ``uncond_embedding`` behind the same mask; it is left out at a scale of 1.
    """
    guided = sampling.cfg_scale != 1.0
    hidden = gpt.embed_text(text)
    if guided:
        everything = torch.ones(len(text), dtype=torch.bool)
        hidden, valid = torch.cat([hidden, gpt.embed_text(text, everything)]), torch.cat([valid, valid])
    conditions = text.shape[1]
    cache: KVCache = {}
    mask = attention_mask(valid, conditions)
    codes: list[Tensor] = []
    for i in range(gpt.config.block_size):
        start = 0 if i == 0 else conditions + i - 1
        logits = gpt.run(hidden, mask, conditions, cache, start)[:, -1].float()
        if guided:
            cond, uncond = logits.chunk(2)
            logits = uncond + (cond - uncond) * sampling.cfg_scale
        codes.append(_choose(logits, sampling, generator))
        fed_back = codes[-1].repeat(2) if guided else codes[-1]
        hidden = gpt.tok_embeddings(fed_back)[:, None]
        mask = F.pad(valid, (0, i + 1), value=True)[:, None, None]
    return torch.stack(codes, dim=1)


def _choose(logits: Tensor, sampling: Sampling, generator: torch.Generator | None) -> Tensor:
    if sampling.temperature == 0:
        return logits.argmax(-1)
    return torch.multinomial(filter_logits(logits, sampling).softmax(-1), 1, generator=generator)[:, 0]


@dataclass
class TorchGenerator:
    """Captions to pictures with the models of this folder, as `demo.evaluate` wants it."""

    gpt: GPT
    encoder: TextEncoder
    vq: VQModel
    sampling: Sampling = Sampling()
    batch: int = 50

    @torch.no_grad()
    def __call__(self, captions: Sequence[str], cfg_scale: float, seed: int) -> np.ndarray:
        """Pictures, uint8 [len(captions), H, W, 3]."""
        generator = torch.Generator().manual_seed(seed)
        settings = self.sampling
        sampling = Sampling(cfg_scale, settings.temperature, settings.top_k, settings.top_p)
        pictures = []
        for i in range(0, len(captions), self.batch):
            text, valid = self.encoder(captions[i : i + self.batch])
            codes = generate_codes(self.gpt, text, valid, sampling, generator)
            side = self.gpt.config.grid
            pictures.append(to_uint8(self.vq.decode(codes.view(-1, side, side))))
        return torch.cat(pictures).numpy()
