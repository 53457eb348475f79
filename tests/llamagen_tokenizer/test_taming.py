"""Checkpoints of VQGAN against an independent reference in the structure of taming-transformers, with random weights."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llamagen_tokenizer import VQConfig, VQModel, load_vq, load_vq_pt, save_vq
from llamagen_tokenizer.checkpoint_files import load_checkpoint
from llamagen_tokenizer.other_names import TAMING
from llamagen_tokenizer.state_dict import VQ, find_weights

CH, CH_MULT, BLOCKS, Z, CODES, DIM = 32, (1, 2, 4), 2, 64, 96, 48
CONFIG = VQConfig(CODES, DIM, CH_MULT, CH_MULT, z_channels=Z, ch=CH, num_res_blocks=BLOCKS, codebook_l2_norm=False)


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
    """An encoder, whose ``down`` goes from the highest resolution to the lowest, or a decoder, whose ``up`` does too."""

    def __init__(self, encoder: bool) -> None:
        super().__init__()
        self.is_encoder = encoder
        channels = [CH * m for m in CH_MULT]
        levels = []
        self.conv_in = nn.Conv2d(3, CH, 3, 1, 1) if encoder else nn.Conv2d(Z, channels[-1], 3, 1, 1)
        before = CH if encoder else channels[-1]
        for i in range(len(channels)) if encoder else reversed(range(len(channels))):
            level = nn.Module()
            inputs = [before] + [channels[i]] * (BLOCKS - 1 if encoder else BLOCKS)
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
        self.conv_out = nn.Conv2d(before, Z if encoder else 3, 3, 1, 1)

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
    """``VQModel`` of taming-transformers, with a loss beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = Half(encoder=True), Half(encoder=False)
        self.quantize = nn.Module()
        self.quantize.embedding = nn.Embedding(CODES, DIM)
        self.quant_conv, self.post_quant_conv = nn.Conv2d(Z, DIM, 1), nn.Conv2d(DIM, Z, 1)
        self.loss = nn.Module()
        self.loss.discriminator = nn.Sequential(nn.Conv2d(3, 8, 4), nn.BatchNorm2d(8))
        self.loss.perceptual_loss = nn.Conv2d(8, 1, 1)

    def encode(self, images: Tensor) -> Tensor:
        z = self.quant_conv(self.encoder(images)).permute(0, 2, 3, 1)
        distances = (z.unsqueeze(-2) - self.quantize.embedding.weight).square().sum(-1)
        return distances.argmin(-1)

    def decode(self, codes: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(self.quantize.embedding(codes).permute(0, 3, 1, 2)))


@pytest.fixture(scope="module")
def taming() -> Taming:
    """The codebook has about the size of the features and vectors of very different lengths, so that l2 norm matters."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(5)
        model = Taming().eval().requires_grad_(False)
        spread = model.quant_conv(model.encoder(torch.rand(2, 3, 32, 32) * 2 - 1)).std()
        model.quantize.embedding.weight *= spread * torch.rand(CODES, 1) * 3
        return model


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(2, 3, 32, 40, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("form", ["state_dict", "flat", "first_stage_model."])
def test_vqgan_equals_the_reference(taming: Taming, images: Tensor, tmp_path: Path, form: str) -> None:
    weights = taming.state_dict()
    if form == "first_stage_model.":
        weights = {form + name: tensor for name, tensor in weights.items()} | {"transformer.head.weight": torch.ones(2)}
    torch.save({"state_dict": weights, "global_step": 3} if form == "state_dict" else weights, tmp_path / "vqgan.ckpt")
    vq = load_vq_pt(tmp_path / "vqgan.ckpt", CONFIG)
    codes = taming.encode(images)
    assert len(codes.unique()) > 10
    assert torch.equal(vq.encode(images), codes)
    torch.testing.assert_close(vq.decode(codes), taming.decode(codes), atol=1e-4, rtol=1e-4)
    save_vq(vq, tmp_path / "vq")
    again = load_vq(tmp_path / "vq")
    assert again.config == CONFIG
    assert torch.equal(again.encode(images), codes)


def test_mistakes_are_caught(taming: Taming, images: Tensor, tmp_path: Path) -> None:
    """The reference notices a normalised codebook and levels of the decoder in the wrong order."""
    torch.save(taming.state_dict(), tmp_path / "vqgan.ckpt")
    normalised = VQConfig(CODES, DIM, CH_MULT, CH_MULT, z_channels=Z, ch=CH, num_res_blocks=BLOCKS)
    codes = taming.encode(images)
    vq = load_vq_pt(tmp_path / "vqgan.ckpt", normalised)
    assert (vq.encode(images) != codes).float().mean() > 0.1
    assert (vq.decode(codes) - taming.decode(codes)).abs().max() > 0.01


def test_where_the_names_are_from(taming: Taming) -> None:
    found = find_weights({"state_dict": taming.state_dict()}, VQ, "vqgan.ckpt")
    assert (found.naming, found.left_out) == (TAMING, ("loss",))
    assert found.tensors.keys() == VQModel(CONFIG).state_dict().keys()
    assert find_weights(found.tensors, VQ, "vq.pt").naming is None


def test_state_of_callbacks(taming: Taming, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning before 1.5 stored it by the callback's class; Lightning need not be installed to read the file."""
    name = "pytorch_lightning.callbacks.model_checkpoint"
    callback = type("ModelCheckpoint", (), {"__module__": name})
    with monkeypatch.context() as patch:
        for part in ("pytorch_lightning", "pytorch_lightning.callbacks", name):
            patch.setitem(sys.modules, part, types.ModuleType(part))
        patch.setattr(sys.modules[name], "ModelCheckpoint", callback, raising=False)
        content = {"state_dict": taming.state_dict(), "callbacks": {callback: {"best_model_path": "a.ckpt"}}}
        torch.save(content, tmp_path / "last.ckpt")
    assert "state_dict" in load_checkpoint(tmp_path / "last.ckpt")


@pytest.mark.parametrize("dim", [8, 256])
def test_codebook_without_l2_norm(dim: int) -> None:
    """A LlamaGen image tokenizer of such a training: codes are nearest by distance and decoded as they are stored."""
    config = VQConfig(64, dim, (1, 1), (1, 1), z_channels=32, ch=32, num_res_blocks=1, codebook_l2_norm=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        quantize = VQModel(config).quantize.requires_grad_(False)
        quantize.embedding.weight *= torch.rand(64, 1) * 3
        z = torch.randn(2, dim, 3, 5)
    codes = quantize.encode(z)
    vectors = quantize.embedding.weight
    nearest = torch.cdist(z.permute(0, 2, 3, 1).reshape(-1, dim).double(), vectors.double()).argmin(-1)
    assert torch.equal(codes.flatten(), nearest)
    assert torch.equal(quantize.decode(codes), vectors[codes].permute(0, 3, 1, 2))
    quantize.l2_norm = True
    assert not torch.equal(quantize.encode(z), codes)
