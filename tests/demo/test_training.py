"""One step of each trainer, and that a resumed run goes on as if it had not stopped."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from demo.export import export
from demo.model import GPTConfig
from demo.patches import patch_table
from demo.scenes import render, sample_scene
from demo.train_ar import ARTrainer, load_trained_ar
from demo.train_vq import VQTrainer, prepare, shrink
from demo.training import Budget, Trainer, learning_rate, run
from demo.vq_init import fresh, grown
from tests.conftest import Convert

from demo import train_vq
from llamagen_server.pipeline import build as loading
from llamagen_tokenizer.config import VQConfig

TINY_GPT = GPTConfig(dim=32, n_layer=1, n_head=2, caption_dim=16, vocab_size=len(patch_table()))
TINY_VQ = VQConfig(len(patch_table()), 8, (1, 1, 1), (2, 1, 1), z_channels=32, ch=32, num_res_blocks=1)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(train_vq, "CONFIG", TINY_VQ)
    monkeypatch.setattr(train_vq, "BATCHES", {4: 2, 8: 2, 16: 1})
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def vq_trainer(steps: int) -> VQTrainer:
    return VQTrainer(Budget(steps=steps))


def ar_trainer(steps: int) -> ARTrainer:
    return ARTrainer(Budget(steps=steps), config=TINY_GPT, batch=4)


@pytest.mark.parametrize("make", [vq_trainer, ar_trainer])
def test_resumed_run_equals_an_unbroken_one(make: Callable[[int], Trainer], tmp_path: Path) -> None:
    torch.set_num_threads(1)
    whole = make(4)
    for _ in range(4):
        whole.step()
    first = make(4)
    for _ in range(2):
        first.step()
    first.budget.steps = 2
    run(first, tmp_path)  # only saves
    second = make(4)
    run(second, tmp_path)
    assert second.count == 4
    for name, value in whole.state_dict()["model"].items():
        torch.testing.assert_close(second.state_dict()["model"][name], value, atol=1e-6, rtol=0, msg=name)


@pytest.mark.parametrize("make", [vq_trainer, ar_trainer])
def test_loss_falls(make: Callable[[int], Trainer]) -> None:
    torch.set_num_threads(1)
    trainer = make(60)
    losses = [trainer.step()["loss"] for _ in range(60)]
    assert sum(losses[-5:]) < 0.95 * sum(losses[:5])


def test_grown_tokenizer_sees_and_draws_as_the_smaller_one() -> None:
    small_model = fresh(TINY_VQ, torch.randn(TINY_VQ.codebook_size, 8)).eval()
    big = grown(small_model).eval()
    rng = random.Random(1)
    images = prepare([render(sample_scene(rng)) for _ in range(2)], big.config)
    assert big.config.downsample == 2 * small_model.config.downsample
    with torch.no_grad():
        wanted = small_model.quant_conv(small_model.encoder(shrink(images, images.shape[-1] // 2)))
        got = big.quant_conv(big.encoder(images))
    assert torch.nn.functional.cosine_similarity(wanted, got, dim=1).mean() > 0.95


def test_a_grown_tokenizer_is_trained_on() -> None:
    smaller = fresh(TINY_VQ, torch.randn(TINY_VQ.codebook_size, 8)).eval().requires_grad_(False)
    assert VQTrainer(Budget(steps=1), smaller=smaller).step()["loss"] > 0


def test_exported_models_are_the_official_files(tmp_path: Path, convert: Convert) -> None:
    run(ar_trainer(1), tmp_path / "ar")
    vq = fresh(TINY_VQ, torch.randn(TINY_VQ.codebook_size, 8)).eval().requires_grad_(False)
    out = tmp_path / "export"
    assert export(load_trained_ar(tmp_path / "ar" / "checkpoint.pt"), vq, out) < 2_000_000
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


def test_budget_takes_one_measure() -> None:
    with pytest.raises(ValueError, match="either steps or minutes, got steps=5 and minutes=1"):
        Budget(steps=5, minutes=1)
