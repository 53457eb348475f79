"""The images of a decode window are distributed as the model says: a toy with two codes, whose every image is known.

vLLM's own noise and our `WindowSampler` run here without an engine, on 20,000 requests at once; the seeds are fixed.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from vllm.plugins import load_general_plugins
from vllm.v1.worker.gpu.sample.gumbel import gumbel_sample

from vllm_llamagen import decode_window
from vllm_llamagen.decode_window import WindowSampler

pytestmark = pytest.mark.engine

IMAGES, TOKENS, CODES = 20_000, 4, 2
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
BOUND = 37.7
"""Chi-square with 15 degrees of freedom exceeds it once in a thousand times."""


def toy_logits() -> Tensor:
    """Logits after each prefix, [prefixes, 2]. A prefix is a 1 followed by its codes, read as a binary number."""
    generator = torch.Generator("cpu").manual_seed(8)
    return 1.5 * torch.randn(CODES ** (TOKENS + 1), CODES, generator=generator, device="cpu").to(DEVICE)


def exact_probabilities() -> Tensor:
    """Returns the probability of each image, [16], by the product of its codes' probabilities."""
    softmax = toy_logits().double().softmax(-1)
    prefixes, total = torch.ones(1, dtype=torch.long), torch.ones(1, dtype=torch.double)
    for _ in range(TOKENS):
        total = (total[:, None] * softmax[prefixes]).flatten()
        prefixes = (CODES * prefixes[:, None] + torch.arange(CODES)).flatten()
    return total


class NoiseSampler:
    """What `WindowSampler` needs of its sampler, at temperature 1. Request i has seed i and one prompt token."""

    def __init__(self) -> None:
        self.sampler = SimpleNamespace()  # vLLM's own, of which the window sets the kind of noise
        prefill_len = SimpleNamespace(gpu=torch.ones(IMAGES, dtype=torch.int32))
        self.req_states = SimpleNamespace(max_num_reqs=IMAGES, device=DEVICE, prefill_len=prefill_len)

    def __call__(self, logits: Tensor, batch: Any) -> Any:
        temperature, seeds = torch.ones(IMAGES), torch.arange(IMAGES)
        positions = batch.positions[batch.logits_indices]
        draws = gumbel_sample(logits, batch.expanded_idx_mapping, temperature, seeds, positions, False, False)
        return SimpleNamespace(sampled_token_ids=draws.view(-1, 1))


def sample(window: int) -> tuple[Tensor, int]:
    """Returns the images as numbers from 0 to 15, [images], and the steps that the slowest one took."""
    logits = toy_logits()
    guidance: Any = SimpleNamespace(
        num_tokens=TOKENS,
        offset=torch.zeros(IMAGES, dtype=torch.long),
        forced=torch.full((IMAGES, TOKENS), -1),
    )
    sampler = WindowSampler(NoiseSampler(), guidance, window)  # type: ignore[arg-type]
    prefix, done = torch.ones(IMAGES, dtype=torch.long), torch.zeros(IMAGES, dtype=torch.long)
    steps = 0
    while len(slots := (done < TOKENS).nonzero()[:, 0]):
        guessed = window if steps else 0  # the step that reads the prompt has no guesses
        read = [prefix[slots]]
        for guess in sampler.drafts[slots, :guessed].T:
            read.append(CODES * read[-1] + guess)
        rows = torch.stack(read, dim=1)
        row_logits = torch.where((rows < len(logits))[..., None], logits[rows.clamp(max=len(logits) - 1)], 0)
        step = batch(slots, done[slots], sampler.drafts[slots, :guessed])
        output: Any = sampler(row_logits.flatten(0, 1), step)
        for column in range(guessed + 1):
            takes = (column < output.num_sampled) & (done[slots] < TOKENS)
            code = output.sampled_token_ids[:, column]
            prefix[slots] = torch.where(takes, CODES * prefix[slots] + code, prefix[slots])
            done[slots] += takes
        steps += 1
    return prefix - CODES**TOKENS, steps


def batch(slots: Tensor, done: Tensor, guesses: Tensor) -> Any:
    """The step's part of vLLM's ``InputBatch``: each request reads its last token and its guesses."""
    n, width = len(slots), 1 + guesses.shape[1]
    return SimpleNamespace(
        num_reqs=n,
        idx_mapping=slots.to(torch.int32),
        expanded_idx_mapping=slots.repeat_interleave(width).to(torch.int32),
        cu_num_logits=torch.arange(n + 1, dtype=torch.int32) * width,
        logits_indices=torch.arange(n * width),
        positions=(done[:, None] + torch.arange(width)).flatten(),
        input_ids=torch.cat([torch.zeros(n, 1, dtype=torch.long), guesses], dim=1).flatten().to(torch.int32),
        seq_lens=(done + width).to(torch.int32),
    )


def chi_square(images: Tensor) -> float:
    expected = IMAGES * exact_probabilities()
    return float(((images.bincount(minlength=CODES**TOKENS) - expected) ** 2 / expected).sum())


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """In an interpreter, a kernel that looks at each request takes a minute. No request here reads part of a prompt."""

    def num_sampled_and_rejected(num_sampled: Tensor, seq_lens: Tensor, cu_num_logits: Tensor, *_: Any) -> Any:
        return num_sampled, cu_num_logits.diff() - num_sampled

    load_general_plugins()  # on a CPU, what stands in for the kernel that samples
    with pytest.MonkeyPatch.context() as monkeypatch, DEVICE:
        monkeypatch.setattr(decode_window, "get_num_sampled_and_rejected", num_sampled_and_rejected)
        yield


@pytest.fixture(scope="module")
def plain() -> Tensor:
    return sample(0)[0]


def test_images_one_by_one_have_their_exact_probabilities(plain: Tensor) -> None:
    assert chi_square(plain) < BOUND


@pytest.mark.parametrize("window", [1, 3])
def test_images_of_a_window_have_their_exact_probabilities(plain: Tensor, window: int) -> None:
    images, steps = sample(window)
    assert steps <= TOKENS
    assert torch.equal(images, plain)
    assert chi_square(images) < BOUND


def test_a_sampler_that_accepts_wrong_guesses_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "cumprod", lambda right, dim: torch.ones_like(right))
    images, steps = sample(1)
    assert steps < TOKENS
    assert chi_square(images) > BOUND
