"""Training of both models: resuming, falling losses, growing the image tokenizer, export."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from demo.export import export
from demo.model import GPTConfig
from demo.shapes.patches import GRID, patch_table
from demo.shapes.scenes import Obj, Scene, render, sample_scene
from demo.shapes.train_ar import ARTrainer, in_token_order, load_averaged, load_trained_ar
from demo.shapes.train_edges import EdgeTrainer
from demo.shapes.train_vq import VQTrainer, prepare, shrink
from demo.training import Budget, learning_rate, run
from demo.vq_init import grown, initialised
from tests.conftest import Convert
from tests.helpers.training import (
    MakeTrainer,
    check_that_a_resumed_run_equals_an_uninterrupted_one,
    check_that_the_loss_falls,
)

from demo.shapes import train_edges, train_vq
from llamagen_server.pipeline import build as loading
from llamagen_tokenizer.config import VQConfig
from llamagen_tokenizer.model import VQModel

TINY_GPT = GPTConfig(dim=32, n_layer=1, n_head=2, caption_dim=16, vocab_size=len(patch_table()))
TINY_VQ = VQConfig(len(patch_table()), 8, (1, 1, 1), (2, 1, 1), z_channels=32, ch=32, num_res_blocks=1)


@pytest.fixture(autouse=True)
def small_and_seeded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(train_vq, "CONFIG", TINY_VQ)
    for module in (train_vq, train_edges):
        monkeypatch.setattr(module, "BATCHES", {4: 2, 8: 2, 16: 1})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # repeatable sums; a run never chooses more
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def vq_trainer(steps: int) -> VQTrainer:
    return VQTrainer(Budget(steps=steps))


def edge_trainer(steps: int) -> EdgeTrainer:
    torch.manual_seed(0)
    return EdgeTrainer(small_tokenizer(), Budget(steps=steps))


def ar_trainer(steps: int) -> ARTrainer:
    return ARTrainer(Budget(steps=steps), config=TINY_GPT, batch=4)


def small_tokenizer() -> VQModel:
    codebook = torch.randn(TINY_VQ.codebook_size, TINY_VQ.codebook_embed_dim)
    return initialised(TINY_VQ, codebook).eval().requires_grad_(False)


@pytest.mark.slow
@pytest.mark.parametrize("make", [vq_trainer, edge_trainer, ar_trainer])
def test_a_resumed_run_equals_an_uninterrupted_one(make: MakeTrainer, tmp_path: Path) -> None:
    check_that_a_resumed_run_equals_an_uninterrupted_one(make, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("make", "steps"), [(vq_trainer, 20), (edge_trainer, 40), (ar_trainer, 60)])
def test_loss_falls(make: MakeTrainer, steps: int) -> None:
    check_that_the_loss_falls(make, steps)


@torch.no_grad()
def test_a_grown_image_tokenizer_computes_the_same_as_the_smaller_one() -> None:
    small = small_tokenizer()
    big = grown(small).eval()
    rng = random.Random(1)
    renders = [render(sample_scene(rng)) for _ in range(2)]
    images = prepare(renders, big.config)
    assert big.config.downsample == 2 * small.config.downsample
    expected = small.quant_conv(small.encoder(shrink(images, images.shape[-1] // 2)))
    vectors = big.quant_conv(big.encoder(images))
    assert torch.nn.functional.cosine_similarity(expected, vectors, dim=1).mean() > 0.95
    codes = torch.from_numpy(np.stack([patch_table().codes(pixels) for pixels in renders])).view(-1, GRID, GRID)
    decoded, doubled = small.decode(codes), big.decode(codes)
    both = torch.stack([decoded.flatten(), shrink(doubled, decoded.shape[-1]).flatten()])
    assert torch.corrcoef(both)[0, 1] > 0.9  # edges differ


def test_a_grown_image_tokenizer_can_be_trained() -> None:
    trainer = VQTrainer(Budget(steps=1), smaller=small_tokenizer())
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.step()
    assert any(not torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())


def test_only_the_last_levels_of_the_decoder_are_trained_for_edges() -> None:
    trainer = edge_trainer(1)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.step()
    changed = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])}
    parts = ("decoder.conv_blocks.1.", "decoder.conv_blocks.2.", "decoder.norm_out.", "decoder.conv_out.")
    assert changed
    assert all(name.startswith(parts) for name in changed)


def test_the_second_run_of_the_language_model_goes_on_from_the_first(tmp_path: Path) -> None:
    first = ar_trainer(1)
    run(first, tmp_path)
    second = ARTrainer(Budget(steps=1), config=TINY_GPT, batch=4, first=load_averaged(tmp_path / "checkpoint.pt"))
    for name, value in second.model.state_dict().items():
        torch.testing.assert_close(value, first.ema.values[name], msg=name)
    second.step()


def test_captions_of_the_second_run_name_the_object_first_whose_token_comes_first() -> None:
    circle, square = Obj("circle", "red", "small", 64, 32), Obj("square", "blue", "large", 24, 56)
    for relation, objects in (("above", (circle, square)), ("below", (square, circle))):
        ordered = in_token_order(Scene("white", objects, relation=relation))
        assert ordered.objects == (circle, square)
        assert ordered.relation is None
    level = Obj("square", "blue", "large", 104, 40)
    assert in_token_order(Scene("white", (level, circle), relation="right of")).objects == (circle, level)


def test_exported_models_can_be_converted(tmp_path: Path, convert: Convert) -> None:
    run(ar_trainer(1), tmp_path / "ar")
    out = tmp_path / "export"
    models = load_trained_ar(tmp_path / "ar" / "checkpoint.pt")
    assert export(models.gpt, small_tokenizer(), out, models.encoder) < 2_000_000
    model = convert(
        tmp_path / "model",
        gpt_ckpt=out / "gpt.pt",
        vq_ckpt=out / "vq.pt",
        gpt_config=out / "gpt_config.json",
        vq_config=out / "vq_config.json",
        text_encoder=out / "text_encoder",
    )
    assert loading.open_model(model).config.num_image_tokens == 64


def test_learning_rate_warms_up_and_decays() -> None:
    rates = [learning_rate(1.0, step, step / 400) for step in range(401)]
    assert rates[0] == 0.01
    assert max(rates) < 1.0
    assert rates.index(max(rates)) == 99
    assert rates[-1] == pytest.approx(0.01)


def test_a_budget_has_one_limit() -> None:
    with pytest.raises(ValueError, match="either steps or minutes, got steps=5 and minutes=1"):
        Budget(steps=5, minutes=1)
