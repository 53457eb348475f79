"""LlamaGen in plain PyTorch, for training. Parameters have the names of the official ``gpt.py``.

The rotary table is all zero for condition tokens; an image token has the angles of its grid cell. Captions are padded
on the left and the padding is masked, so a batch is padded to its longest caption instead of ``cls_token_num``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llamagen_server.bench.eager import RMSNorm, rotate


@dataclass(frozen=True)
class GPTConfig:
    """Fields of the official ``ModelArgs`` that determine the shapes and numbers of a model."""

    dim: int = 256
    n_layer: int = 5
    n_head: int = 4
    n_kv_head: int | None = None
    multiple_of: int = 32
    ffn_dim_multiplier: float | None = None
    rope_base: int = 10000
    norm_eps: float = 1e-5
    caption_dim: int = 160
    class_dropout_prob: float = 0.1
    model_type: str = "t2i"
    """``t2i`` for captions, ``c2i`` for classes, which have one condition token."""
    num_classes: int = 1000
    vocab_size: int = 2048
    cls_token_num: int = 32
    block_size: int = 64

    @property
    def head_dim(self) -> int:
        return self.dim // self.n_head

    @property
    def kv_heads(self) -> int:
        return self.n_kv_head or self.n_head

    @property
    def grid(self) -> int:
        """Image tokens per side."""
        return round(self.block_size**0.5)

    @property
    def ffn_dim(self) -> int:
        hidden = int(2 * (4 * self.dim) / 3)
        if self.ffn_dim_multiplier is not None:
            hidden = int(self.ffn_dim_multiplier * hidden)
        return -(-hidden // self.multiple_of) * self.multiple_of


def rotary_table(config: GPTConfig) -> Tensor:
    """Cosines and sines of the image tokens, float32 [block_size, head_dim / 2, 2].

    The first half of the pairs encodes the row of the grid, the second half the column.
    """
    quarter = config.head_dim // 4
    frequencies = config.rope_base ** (-torch.arange(quarter).double() * 2 / (config.head_dim // 2))
    index = torch.arange(config.block_size)
    rows, columns = index // config.grid, index % config.grid
    angles = torch.cat([torch.outer(rows.double(), frequencies), torch.outer(columns.double(), frequencies)], dim=1)
    return torch.stack([angles.cos(), angles.sin()], dim=-1).float()


class Attention(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.widths = [h * config.head_dim for h in (config.n_head, config.kv_heads, config.kv_heads)]
        self.wqkv = nn.Linear(config.dim, sum(self.widths), bias=False)
        self.wo = nn.Linear(config.dim, config.dim, bias=False)

    def forward(self, x: Tensor, table: Tensor, mask: Tensor) -> Tensor:
        """x [B, L, dim], table [L, head_dim / 2, 2], mask bool [B, 1, L, L] -> [B, L, dim]."""
        q, k, v = (p.unflatten(-1, (-1, self.config.head_dim)) for p in self.wqkv(x).split(self.widths, dim=-1))
        table = table[:, None]  # shared by all heads
        q, k, v = rotate(q, table).transpose(1, 2), rotate(k, table).transpose(1, 2), v.transpose(1, 2)
        grouped = self.config.kv_heads != self.config.n_head
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=grouped)
        return self.wo(y.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.dim, config.ffn_dim, bias=False)
        self.w3 = nn.Linear(config.dim, config.ffn_dim, bias=False)
        self.w2 = nn.Linear(config.ffn_dim, config.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Block(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.feed_forward = FeedForward(config)
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)

    def forward(self, x: Tensor, table: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), table, mask)
        return x + self.feed_forward(self.ffn_norm(x))


class CaptionProjection(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.caption_dim, config.dim, bias=False)
        self.fc2 = nn.Linear(config.dim, config.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class CaptionEmbedder(nn.Module):
    """Projects text features. ``uncond_embedding`` replaces the text in the unconditional branch.

    ``uncond_embedding`` is a buffer in the official code and a trained parameter here; its key is the same.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.cap_proj = CaptionProjection(config)
        shape = (config.cls_token_num, config.caption_dim)
        self.uncond_embedding = nn.Parameter(torch.randn(shape) / config.caption_dim**0.5)

    def forward(self, text: Tensor, drop: Tensor | None) -> Tensor:
        """Hidden states of captions [B, T, caption_dim], bool [B] -> condition embeddings [B, T, dim]."""
        if drop is not None:
            last = self.uncond_embedding[len(self.uncond_embedding) - text.shape[1] :]  # where the captions are
            text = torch.where(drop[:, None, None], last.to(text.dtype), text)
        embeddings: Tensor = self.cap_proj(text)
        return embeddings


class LabelEmbedder(nn.Module):
    """Embeds class ids. The last row of the table, one more than there are classes, is the unconditional embedding."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(config.num_classes + 1, config.dim)

    def forward(self, class_ids: Tensor, drop: Tensor | None) -> Tensor:
        """int64 [B], bool [B] -> condition embeddings [B, 1, dim]."""
        if drop is not None:
            class_ids = torch.where(drop, self.embedding_table.num_embeddings - 1, class_ids)
        embeddings: Tensor = self.embedding_table(class_ids)
        return embeddings[:, None]


class GPT(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.cls_embedding = LabelEmbedder(config) if config.model_type == "c2i" else CaptionEmbedder(config)
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.output = nn.Linear(config.dim, config.vocab_size, bias=False)
        self.rotary = rotary_table(config)
        self.apply(_initialise)

    def forward(self, condition: Tensor, valid: Tensor | None, codes: Tensor, drop: Tensor | None = None) -> Tensor:
        """Computes the logits of the image tokens with teacher forcing; those at position i predict code i.

        Args:
            condition: hidden states of the captions [B, T, caption_dim], padded on the left, or class ids, int64 [B].
            valid: bool [B, T], false where captions are padding; None if nothing is.
            codes: int64 [B, n].
            drop: bool [B]; true replaces the condition with the unconditional embedding, under the same mask.

        Returns:
            float32 [B, n + 1, vocab_size].
        """
        prefix = self.cls_embedding(condition, drop)
        conditions = prefix.shape[1]
        hidden = torch.cat([prefix, self.tok_embeddings(codes)], dim=1)
        table = torch.cat([torch.zeros(conditions, *self.rotary.shape[1:]), self.rotary])[: hidden.shape[1]]
        if valid is None:
            valid = torch.ones(prefix.shape[:2], dtype=torch.bool)
        mask = attention_mask(valid, hidden.shape[1])
        for layer in self.layers:
            hidden = layer(hidden, table, mask)
        return self.output(self.norm(hidden[:, conditions - 1 :])).float()


def attention_mask(valid: Tensor, length: int) -> Tensor:
    """Causal mask without the padding of the text, bool [B, 1, length, length].

    Every position attends at least to itself: a softmax over nothing would be NaN.
    """
    columns = F.pad(valid, (0, length - valid.shape[1]), value=True)
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    return ((causal & columns[:, None]) | torch.eye(length, dtype=torch.bool))[:, None]


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
