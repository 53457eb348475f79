"""Trains the language model of the class demo on the codes of its images.

python -m demo.emoji.train_ar --vq demo/runs/emoji-vq64/checkpoint.pt --out demo/runs/emoji-ar --steps 2400
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from demo.checkpoint import load_trained, load_trained_vq
from demo.code_features import add_features, merge_features
from demo.emoji.classes import CLASSES
from demo.emoji.codes import code_features, encode_scenes
from demo.model import GPT, GPTConfig
from demo.training import Budget, Trainer, autocast, muon_and_adamw, run, set_up, training_parser

CONFIG = GPTConfig(model_type="c2i", num_classes=len(CLASSES), cls_token_num=1, vocab_size=2048)
BATCH = 48


def build(config: GPTConfig, features: Tensor, seed: int) -> GPT:
    """Builds the model with random weights. ``features`` [vocab_size, F] are what the codes look like."""
    torch.manual_seed(seed)
    gpt = GPT(config)
    add_features(gpt, features)
    return gpt


class EmojiARTrainer(Trainer):
    """Trains on random images of the set.

    Args:
        class_ids: int64 [N].
        codes: int64 [N, block_size].
        features: float32 [vocab_size, F].
    """

    def __init__(
        self,
        budget: Budget,
        class_ids: Tensor,
        codes: Tensor,
        features: Tensor,
        seed: int = 0,
        peak_lr: float = 2e-3,
        config: GPTConfig = CONFIG,
        batch: int = BATCH,
    ) -> None:
        self.class_ids, self.codes, self.batch, self.dropout = class_ids, codes, batch, config.class_dropout_prob
        model = build(config, features, seed)
        super().__init__(model, asdict(config), muon_and_adamw(model, model.output), budget, seed, peak_lr)

    def loss(self) -> tuple[Tensor, dict[str, float]]:
        chosen = torch.randint(len(self.codes), (self.batch,))
        drop = torch.rand(self.batch) < self.dropout
        codes = self.codes[chosen]
        with autocast(), sdpa_kernel(SDPBackend.MATH):
            logits = self.model(self.class_ids[chosen], None, codes[:, :-1], drop)
        return F.cross_entropy(logits.flatten(0, 1).float(), codes.flatten()), {}


def load_trained_ar(path: Path) -> GPT:
    """Loads the averaged model from a training checkpoint, in float32 and evaluation mode."""
    state = load_trained(path)
    features = state["ema"]["output.parametrizations.weight.0.features"]
    model = build(GPTConfig(**state["config"]), features, seed=0)
    model.load_state_dict(state["ema"])
    merge_features(model)
    return model.eval().requires_grad_(False)


def main() -> None:
    parser = training_parser(__doc__, peak_lr=2e-3)
    parser.add_argument("--vq", type=Path, required=True, help="checkpoint of the image tokenizer")
    args = parser.parse_args()
    set_up(args)
    vq = load_trained_vq(args.vq)
    class_ids, codes = encode_scenes(vq, args.out / "codes.pt")
    config = replace(CONFIG, vocab_size=vq.config.codebook_size)
    trainer = EmojiARTrainer(
        Budget(args.steps, args.minutes), class_ids, codes, code_features(vq), args.seed, args.lr, config
    )
    run(trainer, args.out)


if __name__ == "__main__":
    main()
