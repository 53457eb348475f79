"""Judgements of a demo's images."""

from __future__ import annotations

import random

import numpy as np
import pytest
from demo.judges import CaptionJudge, variety
from demo.shapes.captions import sample_caption
from demo.shapes.scenes import render, sample_scene


def test_rendered_scenes_show_their_captions_and_exchanged_ones_do_not() -> None:
    rng = random.Random(0)
    scenes = [sample_scene(rng) for _ in range(20)]
    judge = CaptionJudge([sample_caption(rng, scene) for scene in scenes])
    assert judge.conditions[3] == {"prompt": judge.captions[3].text}
    images = np.stack([render(scene) for scene in scenes])
    assert judge.scores(images[:, None])["all"] == 1
    both = np.stack([images, np.roll(images, 1, axis=0)], axis=1)
    right, exchanged = judge.judge(both)
    assert right[:, 0].all()
    assert right.mean() == exchanged["all"]
    assert 0.5 <= exchanged["all"] <= 0.6
    assert exchanged["colour"] < 0.9


def test_variety_of_equal_and_of_different_images() -> None:
    red, blue = np.full((8, 8, 3), (200, 0, 0), np.uint8), np.full((8, 8, 3), (0, 0, 200), np.uint8)
    half = red.copy()
    half[:4] = blue[:4]
    noisy = red + np.uint8(9)

    def of(*groups: list[np.ndarray]) -> dict[str, float]:
        return variety(np.array(groups), np.ones((len(groups), len(groups[0])), bool))

    assert of([red, red, red]) == {"different": 0, "variety": 0}
    assert of([red, blue]) == {"different": 1, "variety": 1}
    assert of([red, half], [red, noisy]) == {"different": 1, "variety": 0.25}
    assert of([red, red, blue]) == {"different": 0.5, "variety": pytest.approx(2 / 3)}


def test_wrong_images_do_not_count_as_variety() -> None:
    red, blue = np.full((8, 8, 3), (200, 0, 0), np.uint8), np.full((8, 8, 3), (0, 0, 200), np.uint8)
    images = np.array([[red, red, blue], [red, blue, blue]])
    assert variety(images, np.array([[True, True, False], [False, True, True]])) == {"different": 0.5, "variety": 0}
    assert variety(images, np.array([[True, True, False], [True, True, False]]))["variety"] == 0.5
    assert variety(images, np.zeros((2, 3), bool))["variety"] == 0
