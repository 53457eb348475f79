"""Checkpoints of VQGAN against a reference in the structure of taming-transformers, with random weights."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
import torch
from tests.helpers.taming import Taming, random_taming
from torch import Tensor

from llamagen_tokenizer import VQConfig, VQModel, load_vq, load_vq_pt, save_vq
from llamagen_tokenizer.checkpoint_files import load_checkpoint
from llamagen_tokenizer.other_names import TAMING
from llamagen_tokenizer.state_dict import VQ, find_weights

CH, CH_MULT, BLOCKS, Z, CODES, DIM = 32, (1, 2, 4), 2, 64, 96, 48
CONFIG = VQConfig(CODES, DIM, CH_MULT, CH_MULT, z_channels=Z, ch=CH, num_res_blocks=BLOCKS, codebook_l2_norm=False)


@pytest.fixture(scope="module")
def taming() -> Taming:
    return random_taming(CH, CH_MULT, BLOCKS, Z, CODES, DIM)


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
