from __future__ import annotations

import random

from demo.shapes.captions import (
    RELATION_WORDS,
    SIZE_WORDS,
    Attribute,
    composition,
    held_out_captions,
    is_held_out,
    mirrored,
    sample_caption,
    sample_split,
)
from demo.shapes.scenes import Scene, sample_scene


def truths(scene: Scene) -> set[Attribute]:
    """All attributes that a caption of the scene, with its objects in this order, may state."""
    facts = {Attribute("count", str(len(scene.objects))), Attribute("background", scene.background)}
    if scene.position:
        facts.add(Attribute("position", " ".join(scene.position)))
    if scene.relation:
        facts.add(Attribute("relation", scene.relation))
    for index, obj in enumerate(scene.objects):
        facts |= {Attribute(kind, getattr(obj, kind), index) for kind in ("shape", "colour", "size")}
    return facts


def test_captions_state_only_true_attributes() -> None:
    rng = random.Random(1)
    for _ in range(500):
        scene = sample_scene(rng)
        attributes = set(sample_caption(rng, scene).attributes)
        assert attributes <= truths(scene) or attributes <= truths(mirrored(scene))


def test_text_contains_a_word_for_every_attribute() -> None:
    rng = random.Random(2)
    for _ in range(300):
        caption = sample_caption(rng, sample_scene(rng))
        text = caption.text.lower()
        for attribute in caption.attributes:
            if attribute.kind in ("shape", "colour"):
                assert attribute.value in text
            elif attribute.kind in ("size", "relation"):
                assert any(word in text for word in (SIZE_WORDS | RELATION_WORDS)[attribute.value])
        assert ("background" in {a.kind for a in caption.attributes}) == any(
            word in text
            for word in ("background", " on white", " on black", " on gr", " on navy", " on dark", " on beige")
        )


def test_captions_vary() -> None:
    rng = random.Random(3)
    scene = sample_scene(rng)
    assert len({sample_caption(rng, scene).text for _ in range(200)}) > 50


def test_a_tenth_is_held_out_whatever_the_order_of_the_objects() -> None:
    rng = random.Random(4)
    scenes = [sample_scene(rng) for _ in range(3000)]
    assert 0.07 < sum(map(is_held_out, scenes)) / len(scenes) < 0.13
    assert all(is_held_out(scene) == is_held_out(mirrored(scene)) for scene in scenes)


def test_split_is_disjoint() -> None:
    rng = random.Random(5)
    trained = {composition(sample_split(rng, held_out=False)) for _ in range(500)}
    assert not trained & {composition(sample_split(rng, held_out=True)) for _ in range(500)}


def test_held_out_captions_are_fixed() -> None:
    captions = held_out_captions()
    assert len(captions) == 300
    assert captions == held_out_captions()
    assert captions[0].text == "a tiny green triangle at the bottom centre."
