"""Classifies images of the class demo: a small network, trained apart from the models that it judges.

python -m demo.emoji.classifier --steps 1500          # writes demo/emoji/classifier.safetensors
"""

from __future__ import annotations

import argparse
import logging
import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from demo.emoji.classes import CLASSES
from demo.emoji.scenes import render, sample_scene
from demo.training import LOG_FORMAT, learning_rate
from llamagen_tokenizer.model import from_uint8

logger = logging.getLogger(__name__)

WEIGHTS = Path(__file__).with_name("classifier.safetensors")
WIDTHS = (3, 32, 64, 96, 128)
BATCH = 64
PEAK_LR = 3e-3


class Classifier(nn.Module):
    """Images, float32 [B, 3, 64, 64] in [-1, 1] -> features [B, 512] and logits of the classes [B, classes]."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(WIDTHS):
            layers += [nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.head = nn.Linear(4 * WIDTHS[-1], len(CLASSES))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(images)
        return features, self.head(features)


def load_classifier() -> Classifier:
    """Loads the committed weights, in evaluation mode."""
    model = Classifier()
    model.load_state_dict({name: t.float() for name, t in load_file(WEIGHTS).items()})
    return model.eval().requires_grad_(False)


@torch.inference_mode()
def certainty(model: Classifier, pixels: np.ndarray, class_id: int) -> np.ndarray:
    """Probability of a class, float32 [N], for images, uint8 [N, 64, 64, 3]."""
    _, logits = model(from_uint8(torch.from_numpy(pixels)))
    probabilities: np.ndarray = logits.softmax(1)[:, class_id].numpy()
    return probabilities


@torch.inference_mode()
def classify(model: Classifier, pixels: np.ndarray) -> np.ndarray:
    """Class ids, int64 [N], of images, uint8 [N, 64, 64, 3]."""
    images = from_uint8(torch.from_numpy(pixels))
    return torch.cat([model(part)[1].argmax(1) for part in images.split(256)]).numpy()


def train(steps: int, seed: int = 0) -> Classifier:
    """Trains on rendered images, half of them blurred, all with noise: a reconstruction is no other class."""
    torch.manual_seed(seed)
    rng = random.Random(seed + 1)
    model = Classifier()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.02)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(PEAK_LR, step, step / steps)
        scenes = [sample_scene(rng) for _ in range(BATCH)]
        images = _worse(from_uint8(torch.from_numpy(np.stack([render(scene) for scene in scenes]))))
        _, logits = model(images)
        loss = F.cross_entropy(logits, torch.tensor([scene.class_id for scene in scenes]), label_smoothing=0.05)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if step % 100 == 99:
            logger.info("step %d loss %.3f", step + 1, loss.item())
    return model.eval().requires_grad_(False)


def _worse(images: Tensor) -> Tensor:
    """Blurs a third of the images by 2 pixels and a third by 4, and adds noise."""
    kind = torch.randint(3, (len(images), 1, 1, 1))
    for value, factor in ((1, 2), (2, 4)):
        small = F.avg_pool2d(images, factor)
        images = torch.where(kind == value, F.interpolate(small, scale_factor=float(factor), mode="bilinear"), images)
    return images + 0.06 * torch.randn_like(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
    model = train(args.steps)
    weights = {name: t.to(torch.float16) for name, t in model.state_dict().items()}
    save_file(weights, WEIGHTS)
    WEIGHTS.chmod(0o644)  # save_file lets only the owner read it
    rng = random.Random(12345)
    scenes = [sample_scene(rng) for _ in range(2048)]
    found = classify(load_classifier(), np.stack([render(scene) for scene in scenes]))
    right = float((found == np.array([scene.class_id for scene in scenes])).mean())
    logger.info("%s: right for %.4f of %d sampled images", WEIGHTS, right, len(scenes))


if __name__ == "__main__":
    main()
