"""Training of the class demo: local codes, resuming, falling losses, and weights in the official format."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from demo.checkpoint import load_trained_vq
from demo.emoji.classes import labels
from demo.emoji.scenes import sample_scene
from demo.emoji.train_ar import EmojiARTrainer, load_trained_ar
from demo.emoji.train_vq import EmojiVQTrainer, make_local, plain_spread
from demo.export import export
from demo.model import GPTConfig
from demo.training import Budget, run
from tests.conftest import Convert
from tests.helpers.training import (
    MakeTrainer,
    check_that_a_resumed_run_equals_an_uninterrupted_one,
    check_that_the_loss_falls,
)

from demo.emoji import codes as emoji_codes
from demo.emoji import train_vq
from llamagen_server.model_dir import ModelDir
from llamagen_tokenizer.config import VQConfig
from llamagen_tokenizer.model import VQModel

TINY_VQ = VQConfig(64, 4, (1, 1, 1), (2, 1, 1), z_channels=32, ch=32, num_res_blocks=1)
TINY_GPT = GPTConfig(
    dim=32, n_layer=1, n_head=2, model_type="c2i", num_classes=64, cls_token_num=1, vocab_size=64, block_size=64
)


@pytest.fixture(autouse=True)
def small_and_seeded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(train_vq, "CONFIG", TINY_VQ)
    monkeypatch.setattr(train_vq, "BATCHES", {4: 2, 8: 2})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # repeatable sums; a run never chooses more
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def ar_trainer(steps: int) -> EmojiARTrainer:
    generator = torch.Generator().manual_seed(3)
    class_ids = torch.arange(64)
    codes = class_ids[:, None].expand(64, 64)  # each image has the code of its class everywhere
    features = torch.randn(64, 6, generator=generator)
    return EmojiARTrainer(Budget(steps=steps), class_ids, codes, features, config=TINY_GPT, batch=8)


def vq_trainer(steps: int) -> EmojiVQTrainer:
    return EmojiVQTrainer(Budget(steps=steps))


@torch.no_grad()
def test_a_code_depends_on_its_neighbourhood_only() -> None:
    """GroupNorm sees the whole image and is left as it is, so it is made to compute nothing here."""
    model = VQModel(replace(train_vq.CONFIG, encoder_ch_mult=(1, 1, 1, 1), decoder_ch_mult=(2, 1, 1, 1))).eval()
    for name, module in list(model.encoder.named_modules()):
        if isinstance(module, torch.nn.GroupNorm):
            parent = model.encoder.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], torch.nn.Identity())
    images = torch.randn(1, 3, 64, 64)
    other = images.clone()
    other[..., 32, 32] += 3

    def reach() -> int:
        changed = (model.encoder(images) - model.encoder(other)).abs().amax(1)[0] > 1e-6
        return int(changed.any(0).sum())

    far = reach()
    make_local(model)
    assert reach() <= 3 < far


@pytest.mark.slow
@pytest.mark.parametrize("make", [vq_trainer, ar_trainer])
def test_a_resumed_run_equals_an_uninterrupted_one(make: MakeTrainer, tmp_path: Path) -> None:
    check_that_a_resumed_run_equals_an_uninterrupted_one(make, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("make", "steps"), [(vq_trainer, 20), (ar_trainer, 60)])
def test_loss_falls(make: MakeTrainer, steps: int) -> None:
    check_that_the_loss_falls(make, steps)


def test_the_spread_of_plain_patches_is_that_around_the_mean_of_their_background() -> None:
    colours = torch.tensor([[1.0, 1, 1], [0, 0, 0], [1, 1, 1]])
    features = torch.tensor([[[1.0], [9]], [[5], [5]], [[3], [7]]], requires_grad=True)
    plain = torch.tensor([[True, False], [False, False], [True, False]])
    spread = plain_spread(features, plain, colours)  # 1 and 3 around 2; the black image has no plain patch
    spread.backward()
    assert spread == 1
    assert features.grad is not None
    assert torch.equal(features.grad[:, :, 0], torch.tensor([[-1.0, 0], [0, 0], [1, 0]]))


def test_an_image_tokenizer_for_larger_images_stays_local(tmp_path: Path) -> None:
    run(vq_trainer(1), tmp_path)
    trainer = EmojiVQTrainer(Budget(steps=1), smaller=load_trained_vq(tmp_path / "checkpoint.pt"))
    trainer.step()
    convolution = trainer.model.encoder.conv_out.weight
    assert trainer.model.config.downsample == 8
    assert convolution[:, :, 1, 1].abs().sum() > 0
    assert (convolution.sum(dim=(2, 3)) == convolution[:, :, 1, 1]).all()


def test_the_codes_of_images_are_computed_once_for_an_image_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(train_vq.CONFIG, encoder_ch_mult=(1,) * 4, decoder_ch_mult=(2, 1, 1, 1))
    model, other = VQModel(config).eval(), VQModel(config).eval()
    class_ids, codes = emoji_codes.encode_scenes(model, tmp_path / "codes.pt", count=40)
    rng = random.Random(0)
    assert class_ids.tolist() == [sample_scene(rng).class_id for _ in range(40)]
    assert codes.shape == (40, 64)
    assert not codes.is_inference()  # training uses them
    monkeypatch.setattr(model, "encode", None)
    again = emoji_codes.encode_scenes(model, tmp_path / "codes.pt", count=40)
    assert torch.equal(again[0], class_ids)
    assert torch.equal(again[1], codes)
    assert not torch.equal(emoji_codes.encode_scenes(other, tmp_path / "codes.pt", count=40)[1], codes)


def test_code_features_tell_codes_apart() -> None:
    model = VQModel(replace(train_vq.CONFIG, encoder_ch_mult=(1,) * 4, decoder_ch_mult=(2, 1, 1, 1))).eval()
    features = emoji_codes.code_features(model)
    assert features.shape == (64, 4 + 48)
    assert features.mean(0).abs().max() < 1e-5
    assert len(features.unique(dim=0)) == 64


def test_exported_models_can_be_converted(tmp_path: Path, convert: Convert) -> None:
    run(ar_trainer(1), tmp_path / "ar")
    out = tmp_path / "export"
    vq = VQModel(replace(train_vq.CONFIG, encoder_ch_mult=(1,) * 4, decoder_ch_mult=(2, 1, 1, 1)))
    assert export(load_trained_ar(tmp_path / "ar" / "checkpoint.pt"), vq, out, labels=labels()) < 2_000_000
    model = convert(
        tmp_path / "model",
        gpt_ckpt=out / "gpt.pt",
        vq_ckpt=out / "vq.pt",
        gpt_config=out / "gpt_config.json",
        vq_config=out / "vq_config.json",
        labels=out / "labels.json",
    )
    opened = ModelDir.open(model)
    assert (opened.config.num_classes, opened.image_size) == (64, 64)
    assert opened.labels == labels()


def test_a_trained_model_has_the_official_names(tmp_path: Path) -> None:
    run(ar_trainer(1), tmp_path)
    names = load_trained_ar(tmp_path / "checkpoint.pt").state_dict()
    assert names["cls_embedding.embedding_table.weight"].shape == (65, 32)
    assert names["tok_embeddings.weight"].shape == names["output.weight"].shape == (64, 32)
    assert not any("parametrizations" in name for name in names)
