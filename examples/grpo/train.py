"""GRPO on the demo model: the engine samples, plain PyTorch learns, and the weights go back in place.

    python -m examples.grpo.train --out runs/grpo --seed 0

The policy is the conditional branch (`cfg_branches=1`, at half the work). The reward is the share of a caption's
attributes that the pixels show (`demo.shapes.checker`). The start is weakened by noise on all weights, so that there is
much to learn. TRL's trainer is written for language models of transformers; the loss below is a few lines.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from demo.model import GPT, GPTConfig
from demo.shapes.captions import Caption, held_out_captions, sample_caption, sample_split
from demo.shapes.checker import check
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from llamagen_server import ImageEngine, RolloutGroup, RolloutRequest
from llamagen_server.model_dir import ModelDir
from llamagen_server.pipeline.build import DEMO_MODEL
from llamagen_server.stages.text_encoder import TextEncoder

logger = logging.getLogger("grpo")


@dataclass(frozen=True)
class Settings:
    steps: int = 30
    prompts: int = 12
    """Captions of a step."""
    group: int = 8
    """Samples of a caption."""
    learning_rate: float = 1e-4
    clip: float = 0.2
    """The ratio of new to old probability counts up to 1 +- clip."""
    noise: float = 0.5
    """Noise on each tensor of the start, as a share of its standard deviation."""
    eval_captions: int = 200
    seed: int = 0


class Policy:
    """The demo's language model in plain PyTorch, with the frozen text encoder in front of it."""

    def __init__(self, model: ModelDir, noise: float, seed: int) -> None:
        config = model.config
        self.gpt = GPT(
            GPTConfig(
                vocab_size=config.codebook_size, cls_token_num=config.cls_token_num, block_size=config.num_image_tokens
            )
        )
        generator = torch.Generator().manual_seed(seed)
        weights = {name: weight.float() for name, weight in load_file(model.path / "model.safetensors").items()}
        for weight in weights.values():
            weight += noise * weight.std() * torch.randn(weight.shape, generator=generator)
        self.gpt.load_state_dict(weights)
        assert model.text_encoder
        self.encoder = TextEncoder(model.text_encoder, max_tokens=config.cls_token_num, clean=config.clean_caption)

    def logprobs(self, captions: Sequence[str], codes: Tensor) -> Tensor:
        """Log-probability of each code of ``codes`` [B, tokens] in the conditional branch, [B, tokens]."""
        texts = self.encoder.encode_text([self.encoder.tokenize(caption) for caption in captions])
        text = pad_sequence(texts, batch_first=True, padding_side="left")
        valid = pad_sequence(
            [torch.ones(len(t), dtype=torch.bool) for t in texts], batch_first=True, padding_side="left"
        )
        logits = self.gpt(text.clone(), valid, codes[:, :-1])
        return logits.log_softmax(-1).gather(2, codes[..., None])[..., 0]


def reward(caption: Caption, image: np.ndarray) -> float:
    """Share of the caption's attributes that the image shows."""
    return 1 - len(check(image, caption.attributes)) / len(caption.attributes)


def rewards_of(captions: Sequence[Caption], groups: Sequence[RolloutGroup]) -> Tensor:
    """Rewards [captions, group]."""
    return torch.tensor(
        [[reward(caption, rollout.pixels) for rollout in group.rollouts] for caption, group in zip(captions, groups)]
    )


def rollout(engine: ImageEngine, captions: Sequence[Caption], group: int, first_seed: int) -> list[RolloutGroup]:
    """Samples a group for each caption from the whole distribution: no top-k, top-p or cfg_min_p, temperature 1."""
    requests = [
        RolloutRequest(
            prompt=caption.text,
            n=group,
            seed=first_seed + i * group,
            cfg_scale=1.0,
            cfg_min_p=0.0,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
        )
        for i, caption in enumerate(captions)
    ]
    return engine.rollout(requests, pixels=True)


def loss_of(
    policy: Policy, captions: Sequence[str], codes: Tensor, old: Tensor, advantages: Tensor, clip: float
) -> Tensor:
    """GRPO's clipped objective, averaged over all tokens.

    Args:
        codes: [B, tokens].
        old: log-probabilities of the codes when they were sampled, [B, tokens].
        advantages: [B].
    """
    ratio = (policy.logprobs(captions, codes) - old).exp()
    clipped = ratio.clamp(1 - clip, 1 + clip)
    return -torch.minimum(ratio * advantages[:, None], clipped * advantages[:, None]).mean()


def train(engine: ImageEngine, model: ModelDir, settings: Settings, out: Path) -> list[dict[str, float]]:
    """Trains, and returns the log: mean reward of each step, and of the held-out captions before and after."""
    policy = Policy(model, settings.noise, settings.seed)
    optimizer = torch.optim.AdamW(
        policy.gpt.parameters(), lr=settings.learning_rate, weight_decay=0.0, betas=(0.9, 0.95)
    )
    captions_rng = random.Random(settings.seed)
    held_out = held_out_captions(settings.eval_captions)
    engine.update_weights(policy.gpt.state_dict())
    log = [{"step": 0, "held_out": evaluate(engine, held_out)}]
    for step in range(1, settings.steps + 1):
        start = time.monotonic()
        captions = [
            sample_caption(captions_rng, sample_split(captions_rng, held_out=False)) for _ in range(settings.prompts)
        ]
        groups = rollout(engine, captions, settings.group, first_seed=(settings.seed * 10_000 + step) * 10_000)
        sampled = time.monotonic()
        rewards = rewards_of(captions, groups)
        advantages = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)
        learn(policy, optimizer, captions, groups, advantages, settings.clip)
        learnt = time.monotonic()
        version = engine.update_weights(policy.gpt.state_dict())
        entry = {"step": step, "reward": float(rewards.mean()), "weights_version": version}
        seconds = {"rollout": sampled - start, "learn": learnt - sampled, "update": time.monotonic() - learnt}
        log.append({**entry, **{f"{name}_seconds": round(value, 2) for name, value in seconds.items()}})
        logger.info("%s", " ".join(f"{name} {value:.4g}" for name, value in log[-1].items()))
    log.append({"step": settings.steps, "held_out": evaluate(engine, held_out)})
    (out / f"seed{settings.seed}.json").write_text(json.dumps(log, indent=1) + "\n")
    return log


def learn(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    captions: Sequence[Caption],
    groups: Sequence[RolloutGroup],
    advantages: Tensor,
    clip: float,
) -> None:
    """Takes one step on the samples of all groups; groups whose rewards are all equal teach nothing."""
    useful = [i for i in range(len(groups)) if advantages[i].abs().max() > 0]
    optimizer.zero_grad()
    for i in useful:
        rollouts = groups[i].rollouts
        codes = torch.from_numpy(np.stack([rollout.codes for rollout in rollouts]))
        old = torch.from_numpy(np.stack([rollout.logprobs for rollout in rollouts]))
        texts = [captions[i].text] * len(rollouts)
        (loss_of(policy, texts, codes, old, advantages[i], clip) / len(useful)).backward()
    torch.nn.utils.clip_grad_norm_(policy.gpt.parameters(), 1.0)
    optimizer.step()


def evaluate(engine: ImageEngine, captions: Sequence[Caption]) -> float:
    """Mean reward of one sample of each caption; the same seeds each time."""
    value = float(rewards_of(captions, rollout(engine, captions, 1, first_seed=0)).mean())
    logger.info("held-out captions: reward %.3f", value)
    return value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the log")
    parser.add_argument("--enforce-eager", action="store_true", help="start sooner, sample slower")
    for name, default in vars(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    args.out.mkdir(parents=True, exist_ok=True)
    settings = Settings(**{name: getattr(args, name) for name in vars(Settings())})
    if settings.group < 2:
        parser.error(f"--group is {settings.group}, must be at least 2: advantages compare the samples of a group")
    with ImageEngine(cfg_branches=1, max_num_seqs=64, enforce_eager=args.enforce_eager) as engine:
        train(engine, ModelDir.open(DEMO_MODEL), settings, args.out)


if __name__ == "__main__":
    main()
