"""The baseline: LlamaGen in eager PyTorch, with the operations of the official code (``gpt.py``, ``generate.py``).

Both branches of an image are rows of one batch, and the class embedding is the prefix. Each step runs the model, mixes
the logits, keeps the top k and samples one code per image. As in the official code, norms and rotations are written
out, attention covers the whole static KV cache behind a mask, and the cache's heads are repeated for grouped queries
even where there is nothing to repeat. Flash and memory-efficient attention are off: the official sampler forbids them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from vllm_llamagen.config import LlamaGenConfig


class RMSNorm(nn.Module):
    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return (wide * torch.rsqrt((wide * wide).mean(-1, keepdim=True) + self.eps)).type_as(x) * self.weight


class Attention(nn.Module):
    def __init__(self, config: LlamaGenConfig, rows: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.heads, self.kv_heads = config.n_head, config.n_kv_head
        self.head_dim = config.dim // config.n_head
        self.wqkv = nn.Linear(config.dim, (self.heads + 2 * self.kv_heads) * self.head_dim, bias=False)
        self.wo = nn.Linear(config.dim, config.dim, bias=False)
        shape = (rows, self.kv_heads, config.num_image_tokens, self.head_dim)
        self.k_cache: Tensor
        self.v_cache: Tensor
        self.register_buffer("k_cache", torch.zeros(shape, dtype=dtype), persistent=False)
        self.register_buffer("v_cache", torch.zeros(shape, dtype=dtype), persistent=False)

    def forward(self, x: Tensor, rotation: Tensor, position: int, mask: Tensor) -> Tensor:
        """x [rows, 1, dim] of one position -> [rows, 1, dim].

        Args:
            rotation: cosines and sines of the position, [head_dim / 2, 2].
            mask: positions to attend to, bool [1, tokens].
        """
        qkv = self.wqkv(x).view(len(x), 1, -1, self.head_dim).transpose(1, 2)
        q, k, v = qkv.split([self.heads, self.kv_heads, self.kv_heads], dim=1)
        self.k_cache[:, :, position] = rotate(k, rotation)[:, :, 0]
        self.v_cache[:, :, position] = v[:, :, 0]
        repeats = self.heads // self.kv_heads
        keys, values = (cache.repeat_interleave(repeats, dim=1) for cache in (self.k_cache, self.v_cache))
        y = F.scaled_dot_product_attention(rotate(q, rotation), keys, values, attn_mask=mask)
        return self.wo(y.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, config: LlamaGenConfig, rows: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.attention = Attention(config, rows, dtype)
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)
        self.w1 = nn.Linear(config.dim, config.ffn_hidden_dim, bias=False)
        self.w3 = nn.Linear(config.dim, config.ffn_hidden_dim, bias=False)
        self.w2 = nn.Linear(config.ffn_hidden_dim, config.dim, bias=False)

    def forward(self, x: Tensor, rotation: Tensor, position: int, mask: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), rotation, position, mask)
        y = self.ffn_norm(x)
        return x + self.w2(F.silu(self.w1(y)) * self.w3(y))


class EagerGPT(nn.Module):
    """A class-conditional LlamaGen with random weights for ``images`` images at a time.

    Each image has ``config.cfg_branches`` rows of the batch: the conditional rows come first, then the unconditional.
    """

    def __init__(self, config: LlamaGenConfig, images: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config = config
        self.branches = config.cfg_branches
        self.cls_embedding = nn.Embedding(config.num_classes + 1, config.dim)
        self.tok_embeddings = nn.Embedding(config.codebook_size, config.dim)
        self.layers = nn.ModuleList(Block(config, images * self.branches, dtype) for _ in range(config.n_layer))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.output = nn.Linear(config.dim, config.codebook_size, bias=False)
        self.rotations = rotations(config)
        self.masks = torch.ones(config.num_image_tokens, config.num_image_tokens, dtype=torch.bool).tril()[:, None]
        self.to(dtype)

    @torch.inference_mode()
    @sdpa_kernel([SDPBackend.MATH, SDPBackend.CUDNN_ATTENTION])
    def generate(
        self, classes: Tensor, cfg_scale: float, top_k: int, temperature: float = 1.0, tokens: int | None = None
    ) -> Tensor:
        """Generates one image per class.

        Args:
            classes: class ids, int64 [images].
            cfg_scale: guidance scale; a model with one branch ignores it.
            top_k: number of most likely codes that are kept; 0 keeps every code.
            temperature: 0 always takes the most likely code.
            tokens: number of image tokens to generate, from the first; None: all.

        Returns:
            The codes in raster order, int64 [images, tokens].
        """
        null = torch.full_like(classes, self.config.num_classes)
        hidden = self.cls_embedding(torch.cat([classes, null]) if self.branches == 2 else classes)[:, None]
        codes: list[Tensor] = []
        for position in range(tokens or self.config.num_image_tokens):
            logits = self._step(hidden, position)
            if self.branches == 2:
                cond, uncond = logits.chunk(2)
                logits = uncond + (cond - uncond) * cfg_scale
            codes.append(sample(logits, top_k, temperature))
            hidden = self.tok_embeddings(codes[-1].repeat(self.branches))[:, None]
        return torch.stack(codes, dim=1)

    def _step(self, hidden: Tensor, position: int) -> Tensor:
        for layer in self.layers:
            hidden = layer(hidden, self.rotations[position], position, self.masks[position])
        return self.output(self.norm(hidden)).float()[:, -1]


def sample(logits: Tensor, top_k: int, temperature: float) -> Tensor:
    """Samples one code per image. Logits float32 [images, codes] -> int64 [images]."""
    if temperature == 0:
        return logits.argmax(-1)
    logits = logits / temperature
    if 0 < top_k < logits.shape[-1]:
        kth = logits.topk(top_k).values[:, -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    return torch.multinomial(logits.softmax(-1), 1)[:, 0]


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotates neighbouring pairs of the last dimension. x [..., head_dim], rotation [..., head_dim / 2, 2] -> as x."""
    pairs = x.float().reshape(*x.shape[:-1], -1, 2)
    cos, sin = rotation.unbind(-1)
    first, second = pairs.unbind(-1)
    return torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-1).flatten(-2).type_as(x)


def rotations(config: LlamaGenConfig) -> Tensor:
    """Returns cosines and sines of all positions, float32 [tokens, head_dim / 2, 2].

    Position 0 is the class; as in the official table its entries are all zero. The positions of the image tokens
    follow: half of the pairs turn with the token's grid row, half with its column.
    """
    half = config.dim // config.n_head // 2
    frequencies = config.rope_base ** (-torch.arange(0, half, 2).float() / half)
    index = torch.arange(config.num_image_tokens - 1)
    rows, columns = index // config.grid_size, index % config.grid_size
    angles = torch.cat([torch.outer(rows.float(), frequencies), torch.outer(columns.float(), frequencies)], dim=1)
    return torch.cat([torch.zeros(1, half, 2), torch.stack([angles.cos(), angles.sin()], dim=-1)])
