"""Layers of the image tokenizer. Module names are those of the official checkpoints."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-6)


class ResnetBlock(nn.Module):
    """Twice GroupNorm, SiLU and a 3x3 convolution, with a shortcut. [B, Cin, H, W] -> [B, Cout, H, W]."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = group_norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = group_norm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        if in_channels != out_channels:
            self.nin_shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class AttnBlock(nn.Module):
    """Single-head self-attention over all positions, scale C**-0.5. [B, C, H, W] -> [B, C, H, W]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (conv(h).flatten(2).transpose(1, 2) for conv in (self.q, self.k, self.v))  # [B, H*W, C]
        h = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(h.transpose(1, 2).reshape(x.shape))


class Downsample(nn.Module):
    """Halves the resolution: pads right and bottom, then a 3x3 convolution of stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Doubles the resolution: nearest neighbour, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """The blocks of one resolution. Children are named ``res``, ``attn`` and ``downsample`` or ``upsample``."""

    def __init__(self, in_channels: int, out_channels: int, num_blocks: int, attention: bool) -> None:
        super().__init__()
        inputs = [in_channels] + [out_channels] * (num_blocks - 1)
        self.res = nn.ModuleList(ResnetBlock(c, out_channels) for c in inputs)
        self.attn = nn.ModuleList(AttnBlock(out_channels) for _ in inputs if attention)

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.res):
            x = block(x)
            if self.attn:
                x = self.attn[i](x)
        for resample in ("downsample", "upsample"):
            if hasattr(self, resample):
                x = getattr(self, resample)(x)
        return x


def middle(channels: int) -> nn.Sequential:
    return nn.Sequential(ResnetBlock(channels, channels), AttnBlock(channels), ResnetBlock(channels, channels))


class Encoder(nn.Module):
    """Images [B, 3, H, W] -> features [B, z_channels, H / downsample, W / downsample]."""

    def __init__(self, ch: int, ch_mult: tuple[int, ...], num_res_blocks: int, z_channels: int) -> None:
        super().__init__()
        channels = [ch] + [ch * m for m in ch_mult]
        last = len(ch_mult) - 1
        self.conv_in = nn.Conv2d(3, ch, 3, padding=1)
        self.conv_blocks = nn.ModuleList()
        for i in range(len(ch_mult)):
            level = Level(channels[i], channels[i + 1], num_res_blocks, attention=i == last)
            if i != last:
                level.downsample = Downsample(channels[i + 1])
            self.conv_blocks.append(level)
        self.mid = middle(channels[-1])
        self.norm_out = group_norm(channels[-1])
        self.conv_out = nn.Conv2d(channels[-1], z_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.conv_blocks:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    """Features [B, z_channels, h, w] -> images [B, 3, h * downsample, w * downsample]."""

    def __init__(self, ch: int, ch_mult: tuple[int, ...], num_res_blocks: int, z_channels: int) -> None:
        super().__init__()
        channels = [ch * m for m in reversed(ch_mult)]  # lowest resolution first
        inputs = [channels[0], *channels]
        last = len(ch_mult) - 1
        self.conv_in = nn.Conv2d(z_channels, channels[0], 3, padding=1)
        self.mid = middle(channels[0])
        self.conv_blocks = nn.ModuleList()
        for i, out_channels in enumerate(channels):
            level = Level(inputs[i], out_channels, num_res_blocks + 1, attention=i == 0)
            if i != last:
                level.upsample = Upsample(out_channels)
            self.conv_blocks.append(level)
        self.norm_out = group_norm(channels[-1])
        self.conv_out = nn.Conv2d(channels[-1], 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid(self.conv_in(z))
        for level in self.conv_blocks:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class VectorQuantizer(nn.Module):
    """Nearest neighbour in a codebook.

    With ``l2_norm`` the stored vectors, which do not have unit length, and the features are normalised at each use.
    """

    def __init__(self, codebook_size: int, embed_dim: int, l2_norm: bool) -> None:
        super().__init__()
        self.l2_norm = l2_norm
        self.embedding = nn.Embedding(codebook_size, embed_dim)

    def codebook(self) -> Tensor:
        """Returns the vectors of the codes, [codebook_size, embed_dim]."""
        return F.normalize(self.embedding.weight, dim=-1) if self.l2_norm else self.embedding.weight

    def encode(self, z: Tensor) -> Tensor:
        """Features [B, D, h, w] -> codes [B, h, w], int64."""
        z, codebook = z.permute(0, 2, 3, 1), self.codebook()
        if self.l2_norm:  # unit vectors: nearest is the largest dot product
            return torch.argmax(F.normalize(z, dim=-1) @ codebook.T, dim=-1)
        return torch.argmin(codebook.square().sum(-1) - 2 * z @ codebook.T, dim=-1)  # |z - e|^2, less |z|^2

    def decode(self, codes: Tensor) -> Tensor:
        """Codes [B, h, w] -> vectors of the codes [B, D, h, w]."""
        return F.embedding(codes, self.codebook()).permute(0, 3, 1, 2)
