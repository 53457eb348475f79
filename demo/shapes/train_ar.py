"""Trains the language model together with its text encoder on rendered scenes and their captions.

    python -m demo.shapes.train_ar --out demo/runs/ar --steps 6000
    python -m demo.shapes.train_ar --from demo/runs/ar/checkpoint.pt --out demo/runs/ar2 --steps 1000 --lr 1e-3

Every step uses new scenes, captions and codes. The codes follow from the scene's patches (`demo.shapes.patches`), so
training does not need a trained image tokenizer.

The second run is for captions such as "a red circle and a blue square", which do not state where each object is. After
the first run, a blue circle with a red square is as likely to the model as the right image: it mixes up the two objects
where either may come first in the order of the image tokens. The second run's captions name that one first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from operator import itemgetter
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from demo.checkpoint import load_trained
from demo.code_features import add_features, merge_features
from demo.model import GPT, GPTConfig
from demo.shapes.captions import sample_caption, sample_split
from demo.shapes.patches import patch_table
from demo.shapes.scenes import SPANS, Scene, render
from demo.shapes.text_encoder import TextEncoder
from demo.training import Budget, Trainer, autocast, muon_and_adamw, run, set_up, training_parser

CONFIG = GPTConfig(vocab_size=len(patch_table()))
BATCH = 64
KEPT_RELATIONS = 0.4
"""Share of sampled captions with a relation that are used."""


class TextToImage(nn.Module):
    """The language model and the text encoder, which are trained together."""

    def __init__(self, gpt: GPT, encoder: TextEncoder) -> None:
        super().__init__()
        self.gpt, self.encoder = gpt, encoder

    def loss(self, captions: list[str], codes: Tensor, drop: Tensor) -> Tensor:
        """Mean cross-entropy of the codes, a scalar.

        Args:
            captions: B texts.
            codes: int64 [B, block_size].
            drop: bool [B]; true replaces the caption with the unconditional embedding.
        """
        # On a CPU, the backward pass of the fused attention is slow with a mask.
        with autocast(), sdpa_kernel(SDPBackend.MATH):
            text, valid = self.encoder(captions)
            logits = self.gpt(text, valid, codes[:, :-1], drop)
        return F.cross_entropy(logits.flatten(0, 1).float(), codes.flatten())


def build(config: GPTConfig, features: Tensor, seed: int) -> TextToImage:
    """Builds both models with random weights. ``features`` [vocab_size, F] describe the patches of the codes."""
    torch.manual_seed(seed)
    gpt = GPT(config)
    add_features(gpt, features)
    encoder = TextEncoder.from_scratch(config.caption_dim, config.cls_token_num, seed)
    return TextToImage(gpt, encoder)


class ARTrainer(Trainer):
    """Trains on scenes that are not held out.

    Args:
        features: float32 [vocab_size, F], what each code looks like; by default those of the patches.
        encode: B images, uint8 [IMAGE_SIZE, IMAGE_SIZE, 3] -> codes, int64 [B, block_size]; by default of the patches.
        first: models of the first run, to go on from; then captions without a relation name the objects in the order
            of their image tokens.
    """

    def __init__(
        self,
        budget: Budget,
        seed: int = 0,
        peak_lr: float = 2e-3,
        config: GPTConfig = CONFIG,
        batch: int = BATCH,
        features: Tensor | None = None,
        encode: Callable[[Sequence[np.ndarray]], Tensor] | None = None,
        first: TextToImage | None = None,
    ) -> None:
        self.encode = encode or patch_table().batch_codes
        self.batch, self.dropout = batch, config.class_dropout_prob
        self.ordered = first is not None
        model = first or build(config, patch_table().features if features is None else features, seed)
        super().__init__(model, asdict(config), muon_and_adamw(model, model.gpt.output), budget, seed, peak_lr)

    def loss(self) -> tuple[Tensor, dict[str, float]]:
        scenes = [self._scene() for _ in range(self.batch)]
        captions = [self._caption(scene) for scene in scenes]
        codes = self.encode([render(scene) for scene in scenes])
        drop = torch.rand(self.batch) < self.dropout
        return self.model.loss(captions, codes, drop), {}

    def _scene(self) -> Scene:
        """Samples a training scene. Four out of five have two objects: distinguishing these takes longest to learn."""
        while len((scene := sample_split(self.rng, held_out=False)).objects) == 1 and self.rng.random() < 0.6:
            pass
        return scene

    def _caption(self, scene: Scene) -> str:
        """Samples a caption. Two objects often lack a relation: then only the words say which has which colour.

        In the second run, these name the objects in the order of their image tokens.
        """
        while True:
            caption = sample_caption(self.rng, scene)
            if all(a.kind != "relation" for a in caption.attributes):
                return sample_caption(self.rng, in_token_order(scene)).text if self.ordered else caption.text
            if self.rng.random() < KEPT_RELATIONS:
                return caption.text


def in_token_order(scene: Scene) -> Scene:
    """The same image without its relation; its objects have the order of their first image tokens."""
    tops = [(o.y - SPANS[o.size], o.x - SPANS[o.size]) for o in scene.objects]
    objects = tuple(obj for _, obj in sorted(zip(tops, scene.objects, strict=True), key=itemgetter(0)))
    return replace(scene, objects=objects, relation=None)


def load_averaged(path: Path) -> TextToImage:
    """Loads the averaged models from a training checkpoint, to train them further."""
    state = load_trained(path)
    features = state["ema"]["gpt.output.parametrizations.weight.0.features"]
    model = build(GPTConfig(**state["config"]), features, seed=0)
    model.load_state_dict(state["ema"])
    return model


def load_trained_ar(path: Path) -> TextToImage:
    """Loads the averaged models from a training checkpoint, in float32 and evaluation mode."""
    model = load_averaged(path)
    merge_features(model.gpt)
    return model.eval().requires_grad_(False)


def main() -> None:
    parser = training_parser(__doc__, peak_lr=2e-3)
    parser.add_argument("--from", dest="first", type=Path, help="checkpoint of the first run")
    args = parser.parse_args()
    set_up(args)
    first = load_averaged(args.first) if args.first else None
    run(ARTrainer(Budget(args.steps, args.minutes), args.seed, args.lr, first=first), args.out)


if __name__ == "__main__":
    main()
