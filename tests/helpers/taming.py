"""VQGAN in the structure of taming-transformers, written apart from the network that is tested."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(num_groups=32, num_channels=channels, eps=1e-6, affine=True)


def swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


class Block(nn.Module):
    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(cin), nn.Conv2d(cin, cout, 3, 1, 1)
        self.norm2, self.conv2 = norm(cout), nn.Conv2d(cout, cout, 3, 1, 1)
        self.nin_shortcut = nn.Conv2d(cin, cout, 1) if cin != cout else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(swish(self.norm2(self.conv1(swish(self.norm1(x))))))
        return h + (x if self.nin_shortcut is None else self.nin_shortcut(x))


class Attention(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.norm = norm(c)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(c, c, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        b, c, height, width = x.shape
        h = self.norm(x)
        q, k, v = (conv(h).reshape(b, c, height * width) for conv in (self.q, self.k, self.v))
        weights = torch.softmax(torch.bmm(q.permute(0, 2, 1), k) * c**-0.5, dim=2)  # [b, queries, keys]
        return x + self.proj_out(torch.bmm(v, weights.permute(0, 2, 1)).reshape(b, c, height, width))


class Conv(nn.Module):
    def __init__(self, c: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c, c, 3, stride=stride, padding=0 if stride == 2 else 1)


def middle(c: int) -> nn.Module:
    mid = nn.Module()
    mid.block_1, mid.attn_1, mid.block_2 = Block(c, c), Attention(c), Block(c, c)
    return mid


class Half(nn.Module):
    """An encoder or a decoder. ``down`` and ``up`` are both numbered from the highest resolution to the lowest."""

    def __init__(self, encoder: bool, ch: int, ch_mult: tuple[int, ...], blocks: int, z: int) -> None:
        super().__init__()
        self.is_encoder = encoder
        channels = [ch * m for m in ch_mult]
        levels = []
        self.conv_in = nn.Conv2d(3, ch, 3, 1, 1) if encoder else nn.Conv2d(z, channels[-1], 3, 1, 1)
        before = ch if encoder else channels[-1]
        for i in range(len(channels)) if encoder else reversed(range(len(channels))):
            level = nn.Module()
            inputs = [before] + [channels[i]] * (blocks - 1 if encoder else blocks)
            level.block = nn.ModuleList(Block(c, channels[i]) for c in inputs)
            level.attn = nn.ModuleList(Attention(channels[i]) for _ in inputs if i == len(channels) - 1)
            if encoder and i < len(channels) - 1:
                level.downsample = Conv(channels[i], 2)
            if not encoder and i > 0:
                level.upsample = Conv(channels[i], 1)
            before = channels[i]
            levels.append(level)
        if encoder:
            self.down = nn.ModuleList(levels)
        else:
            self.up = nn.ModuleList(reversed(levels))
        self.mid = middle(channels[-1])
        self.norm_out = norm(before)
        self.conv_out = nn.Conv2d(before, z if encoder else 3, 3, 1, 1)

    def middle(self, x: Tensor) -> Tensor:
        return self.mid.block_2(self.mid.attn_1(self.mid.block_1(x)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        if not self.is_encoder:
            x = self.middle(x)
        for level in self.down if self.is_encoder else reversed(self.up):
            for j, block in enumerate(level.block):
                x = block(x)
                x = level.attn[j](x) if len(level.attn) else x
            if hasattr(level, "downsample"):
                x = level.downsample.conv(F.pad(x, (0, 1, 0, 1), mode="constant", value=0))
            if hasattr(level, "upsample"):
                x = level.upsample.conv(x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))
        if self.is_encoder:
            x = self.middle(x)
        return self.conv_out(swish(self.norm_out(x)))


class Taming(nn.Module):
    """``VQModel`` of taming-transformers, with attention at the lowest resolution, and a loss beside it."""

    def __init__(self, ch: int, ch_mult: tuple[int, ...], blocks: int, z: int, codes: int, dim: int) -> None:
        super().__init__()
        self.encoder, self.decoder = (Half(encoder, ch, ch_mult, blocks, z) for encoder in (True, False))
        self.quantize = nn.Module()
        self.quantize.embedding = nn.Embedding(codes, dim)
        self.quant_conv, self.post_quant_conv = nn.Conv2d(z, dim, 1), nn.Conv2d(dim, z, 1)
        self.loss = nn.Module()
        self.loss.discriminator = nn.Sequential(nn.Conv2d(3, 8, 4), nn.BatchNorm2d(8))
        self.loss.perceptual_loss = nn.Conv2d(8, 1, 1)

    def encode(self, images: Tensor) -> Tensor:
        z = self.quant_conv(self.encoder(images)).permute(0, 2, 3, 1)
        distances = (z.unsqueeze(-2) - self.quantize.embedding.weight).square().sum(-1)
        return distances.argmin(-1)

    def decode(self, codes: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(self.quantize.embedding(codes).permute(0, 3, 1, 2)))


def random_taming(ch: int, ch_mult: tuple[int, ...], blocks: int, z: int, codes: int, dim: int) -> Taming:
    """A network with random weights. Its codebook has vectors of very different lengths, near the features."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(5)
        model = Taming(ch, ch_mult, blocks, z, codes, dim).eval().requires_grad_(False)
        spread = model.quant_conv(model.encoder(torch.rand(2, 3, 32, 32) * 2 - 1)).std()
        model.quantize.embedding.weight *= spread * torch.rand(codes, 1) * 3
        return model
