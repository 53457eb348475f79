from __future__ import annotations

import random

from demo.captions import Attribute, composition, held_out_captions, is_held_out, mirrored, sample_caption, sample_split
from demo.scenes import Scene, sample_scene


def truths(scene: Scene) -> set[Attribute]:
    """Everything that a caption of the scene, its objects in this order, may state."""
    facts = {Attribute("count", str(len(scene.objects))), Attribute("background", scene.background)}
    if scene.position:
        facts.add(Attribute("position", " ".join(scene.position)))
    if scene.relation:
        facts.add(Attribute("relation", scene.relation))
    for index, obj in enumerate(scene.objects):
        facts |= {Attribute(kind, getattr(obj, kind), index) for kind in ("shape", "colour", "size")}
    return facts


def test_captions_state_only_what_holds() -> None:
    rng = random.Random(1)
    for _ in range(500):
        scene = sample_scene(rng)
        attributes = set(sample_caption(rng, scene).attributes)
        assert attributes <= truths(scene) or attributes <= truths(mirrored(scene))


def test_text_has_a_word_for_every_attribute() -> None:
    rng = random.Random(2)
    for _ in range(300):
        caption = sample_caption(rng, sample_scene(rng))
        words = caption.text.lower()
        for attribute in caption.attributes:
            if attribute.kind in ("shape", "colour"):
                assert attribute.value in words
        assert ("background" in {a.kind for a in caption.attributes}) == any(
            w in words for w in ("background", " on white", " on black", " on gr", " on navy", " on dark", " on beige")
        )


def test_captions_vary() -> None:
    rng = random.Random(3)
    scene = sample_scene(rng)
    assert len({sample_caption(rng, scene).text for _ in range(200)}) > 50


def test_a_tenth_is_held_out_whatever_the_order_of_the_objects() -> None:
    rng = random.Random(4)
    drawn = [sample_scene(rng) for _ in range(3000)]
    assert 0.07 < sum(map(is_held_out, drawn)) / len(drawn) < 0.13
    assert all(is_held_out(s) == is_held_out(mirrored(s)) for s in drawn)


def test_split_is_disjoint() -> None:
    rng = random.Random(5)
    seen = {composition(sample_split(rng, held_out=False)) for _ in range(500)}
    assert not seen & {composition(sample_split(rng, held_out=True)) for _ in range(500)}


def test_held_out_captions_are_fixed() -> None:
    captions = held_out_captions()
    assert len(captions) == 300
    assert captions == held_out_captions()
    assert captions[0].text == "a tiny green triangle at the bottom centre."
