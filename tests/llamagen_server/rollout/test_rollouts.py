"""Rollouts on a real engine: the log-probabilities of all three policies, and weights that change in place."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.helpers.engine_flags import exact_flags
from tests.helpers.teacher_forcing import Reference
from torch import Tensor

from llamagen_server import ImageEngine, ImageRequest, InvalidRequestError, RolloutGroup, RolloutRequest
from llamagen_server.pipeline.build import open_model
from vllm_llamagen.vllm_compat import current_platform

pytestmark = pytest.mark.engine

CONDITIONS: dict[str, list[int | str]] = {"class": [3, 7], "text": ["a small red circle", "blue star left of a dog"]}


@pytest.fixture(scope="module", params=["class", "text"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model_dir(kind: str, request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(f"{kind}_model_dir")
    return path


@pytest.fixture(scope="module")
def engine(model_dir: Path) -> Iterator[ImageEngine]:
    with ImageEngine(model_dir, enforce_eager=True, max_num_seqs=8, **exact_flags()) as engine:
        yield engine


@pytest.fixture(scope="module")
def reference(model_dir: Path) -> Reference:
    return Reference(open_model(model_dir))


def ask(condition: int | str, **fields: object) -> RolloutRequest:
    name = "class_id" if isinstance(condition, int) else "prompt"
    return RolloutRequest(**{name: condition, **fields})  # type: ignore[arg-type]


def guided_logprobs(
    logits: Tensor, scales: Tensor, temperature: float, top_k: int, top_p: float, cfg_min_p: float
) -> Tensor:
    """The distribution that codes are sampled from, [tokens, codebook]; written down anew."""
    conditional, unconditional = logits
    mixed = (unconditional + scales[:, None] * (conditional - unconditional)) / temperature
    probabilities = conditional.softmax(-1)
    least = cfg_min_p * probabilities.max(-1, keepdim=True).values
    mixed = mixed.masked_fill(probabilities < least, -math.inf)
    if top_k:
        smallest = mixed.topk(top_k).values[:, -1:]
        mixed = mixed.masked_fill(mixed < smallest, -math.inf)
    if top_p < 1:
        ordered, order = mixed.sort(descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
        mixed = mixed.masked_fill((before >= top_p).gather(1, order.argsort(-1)), -math.inf)
    return mixed.log_softmax(-1)


SETTINGS = [
    {"cfg_scale": 3.0, "temperature": 1.0, "top_k": 0, "top_p": 1.0},
    {"cfg_scale": 1.0, "temperature": 0.7, "top_k": 0, "top_p": 1.0},
    {"cfg_scale": 4.0, "temperature": 1.0, "top_k": 50, "top_p": 1.0, "cfg_interval": 20},
    {"cfg_scale": 7.5, "temperature": 1.3, "top_k": 0, "top_p": 0.9, "cfg_schedule": "cosine"},
    {"cfg_scale": 2.0, "temperature": 1.0, "top_k": 100, "top_p": 0.8, "cfg_schedule": "linear", "cfg_interval": 40},
    {"cfg_scale": 7.5, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "cfg_min_p": 0.1},
    {"cfg_scale": 1.0, "temperature": 1.2, "top_k": 40, "top_p": 0.95, "cfg_min_p": 0.4},
]


def expected_scales(settings: dict[str, object], count: int) -> Tensor:
    scale, schedule = float(str(settings["cfg_scale"])), settings.get("cfg_schedule", "constant")
    share = torch.arange(count) / (count - 1)
    shares = {"constant": torch.ones(count), "linear": share, "cosine": (1 - torch.cos(math.pi * share)) / 2}
    scales = 1 + (scale - 1) * shares[str(schedule)]
    interval = int(str(settings.get("cfg_interval", -1)))
    return scales if interval < 0 else scales.where(torch.arange(count) < interval + 2, torch.ones(()))


def test_log_probabilities_of_all_three_policies(engine: ImageEngine, reference: Reference, kind: str) -> None:
    """Against one dense pass over each sample: all settings in one batch, and a group without branches among them."""
    requests, asked = [], []
    for i, settings in enumerate(SETTINGS):
        for condition in CONDITIONS[kind]:
            requests.append(ask(condition, n=2, seed=40 + i, branch_logprobs=True, **settings))
            asked.append((condition, settings))
    plain = ask(CONDITIONS[kind][0], n=2, seed=1)
    *groups, other = engine.rollout([*requests, plain])
    assert other.rollouts[0].conditional_logprobs is None
    for (condition, settings), group in zip(asked, groups, strict=True):
        assert_group(group, condition, settings, reference)


def assert_group(group: RolloutGroup, condition: int | str, settings: dict[str, object], reference: Reference) -> None:
    count = reference.model.config.num_image_tokens
    scales = expected_scales(settings, count)
    np.testing.assert_allclose(group.cfg_scales, scales.numpy(), atol=1e-6)
    assert group.sampling.cfg_scale == settings["cfg_scale"]
    for rollout in group.rollouts:
        codes = torch.from_numpy(rollout.codes)
        logits = reference.branch_logits(condition, codes)
        branches = logits.log_softmax(-1).gather(2, codes.expand(2, -1)[..., None])[..., 0]
        np.testing.assert_allclose(rollout.conditional_logprobs, branches[0], atol=1e-4)
        np.testing.assert_allclose(rollout.unconditional_logprobs, branches[1], atol=1e-4)
        choice = {name: settings[name] for name in ("temperature", "top_k", "top_p")}
        choice["cfg_min_p"] = settings.get("cfg_min_p", 0.0)
        policy = guided_logprobs(logits, scales, **choice)  # type: ignore[arg-type]
        np.testing.assert_allclose(rollout.logprobs, policy.gather(1, codes[:, None])[:, 0], atol=1e-4)
        assert abs(rollout.conditional_logprobs - rollout.unconditional_logprobs).max() > 0.1


def noisy(file: Path, share: float, out: Path) -> Path:
    """Writes weights with noise of a share of their standard deviation."""
    generator = torch.Generator().manual_seed(0)
    tensors = load_file(file)
    changed = {k: t + share * t.float().std() * torch.randn(t.shape, generator=generator) for k, t in tensors.items()}
    save_file({name: tensor.contiguous() for name, tensor in changed.items()}, out)
    return out


def greedy(engine: ImageEngine, kind: str) -> list[list[int]]:
    requests = [ask(c, n=1, temperature=0.0, cfg_scale=3.0, seed=0) for c in CONDITIONS[kind]]
    return [group.rollouts[0].codes.tolist() for group in engine.rollout(requests)]


def test_new_weights_are_those_of_a_fresh_engine(
    engine: ImageEngine, kind: str, model_dir: Path, tmp_path: Path
) -> None:
    """Prompts, too: the same ones are sampled before, so their cached keys and values must go."""
    weights = noisy(model_dir / "model.safetensors", 0.2, tmp_path / "new.safetensors")
    before, version = greedy(engine, kind), engine.weights_version
    start = time.monotonic()
    assert engine.update_weights(load_file(weights)) == version + 1
    assert time.monotonic() - start < 2
    after = greedy(engine, kind)
    reference = Reference(open_model(model_dir), weights)
    for condition, codes in zip(CONDITIONS[kind], after, strict=True):
        conditional, unconditional = reference.branch_logits(condition, torch.tensor(codes))
        assert codes == (unconditional + 3 * (conditional - unconditional)).argmax(-1).tolist()
    assert after != before
    assert engine.rollout([ask(CONDITIONS[kind][0], n=1)])[0].weights_version == version + 1
    assert engine.update_weights(model_dir / "model.safetensors", version=90) == 90
    assert greedy(engine, kind) == before
    assert engine.weights_version == 90


def test_weights_that_do_not_fit_change_nothing(
    engine: ImageEngine, kind: str, model_dir: Path, tmp_path: Path
) -> None:
    before, version, tensors = greedy(engine, kind), engine.weights_version, load_file(model_dir / "model.safetensors")
    wrong = {
        "1 tensors are missing, first norm.weight": {k: t for k, t in tensors.items() if k != "norm.weight"},
        "1 unexpected tensors, first extra": {**tensors, "extra": torch.zeros(1)},
        r"norm.weight has shape \[3\]": {**tensors, "norm.weight": torch.zeros(3)},
    }
    for message, weights in wrong.items():
        with pytest.raises(ValueError, match=message):
            engine.update_weights(weights)
    with pytest.raises(ValueError, match=r"none.safetensors is not a file"):
        engine.update_weights(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="safetensors"):
        engine.update_weights(tmp_path / "bad.safetensors")
    assert (greedy(engine, kind), engine.weights_version) == (before, version)


def test_groups_are_those_of_single_requests(engine: ImageEngine, kind: str) -> None:
    condition = CONDITIONS[kind][0]
    [group] = engine.rollout([ask(condition, n=12, seed=5)], pixels=True)
    name = "class_id" if kind == "class" else "prompt"
    single = engine.generate(ImageRequest(**{name: condition, "seed": 14}))  # type: ignore[arg-type]
    assert group.rollouts[9].codes.tolist() == single.images[0].codes
    assert group.rollouts[9].seed == 14
    assert (group.rollouts[9].pixels == single.images[0].pixels).all()
    assert len({rollout.codes.tobytes() for rollout in group.rollouts}) == 12


def test_a_pause_holds_calls_back(engine: ImageEngine, kind: str) -> None:
    import asyncio

    async def paused() -> bool:
        task = asyncio.create_task(engine.rollout_async([ask(CONDITIONS[kind][0], n=1)]))
        done, _ = await asyncio.wait([task], timeout=1)
        engine.resume()
        await task
        return not done

    engine.pause()
    assert asyncio.run(paused())


@pytest.mark.skipif(not current_platform.is_cpu(), reason="a GPU's engine may sleep")
def test_an_engine_on_a_cpu_does_not_sleep(engine: ImageEngine, kind: str) -> None:
    before = greedy(engine, kind)
    with pytest.raises(InvalidRequestError, match="cannot sleep: that needs a GPU and --enable-sleep-mode"):
        engine.sleep()
    assert greedy(engine, kind) == before


def test_new_weights_outlive_the_engine(engine: ImageEngine, kind: str, model_dir: Path, tmp_path: Path) -> None:
    if kind == "text":
        pytest.skip("one kind shows it, and a restart takes long")
    before = greedy(engine, kind)
    version = engine.update_weights(noisy(model_dir / "model.safetensors", 0.2, tmp_path / "new.safetensors"))
    after = greedy(engine, kind)
    assert after != before
    engine._pipeline.engine._life.engine.kill()  # type: ignore[attr-defined]
    assert greedy(engine, kind) == after
    assert engine.weights_version == version
