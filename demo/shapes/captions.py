"""Captions of scenes in varied English, each with the attributes it states, and the training / held-out split."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass

from demo.shapes.scenes import Scene, sample_scene

HELD_OUT_SHARE = 0.1
"""Share of the compositions on which the language model is never trained."""
NUM_TEST_CAPTIONS = 300
TEST_SEED = 20240606

# A word listed twice is chosen twice as often.
SIZE_WORDS = {"small": ("small", "small", "little", "tiny"), "large": ("large", "large", "big", "huge")}
BACKGROUND_WORDS = {"grey": ("grey", "gray"), "navy": ("navy", "dark blue", "navy blue")}
MIDDLE = ("centre", "center", "middle")
RELATION_WORDS = {
    "left of": ("to the left of", "left of", "on the left of"),
    "right of": ("to the right of", "right of", "on the right of"),
    "above": ("above", "over", "on top of"),
    "below": ("below", "under", "beneath"),
}


@dataclass(frozen=True)
class Attribute:
    """One statement of a caption, which pixels can confirm or refute.

    ``kind`` is count, background, position, relation, shape, colour or size. ``value`` is the corresponding word of
    `demo.shapes.scenes`, such as "top left" for a position. ``index`` is the described object, counted in the order of
    the caption; None for a statement about the whole scene.
    """

    kind: str
    value: str
    index: int | None = None


@dataclass(frozen=True)
class Caption:
    text: str
    attributes: tuple[Attribute, ...]


def composition(scene: Scene) -> str:
    """Identity of a scene for the split: everything that a caption can state, without exact coordinates."""
    looks = [f"{o.size} {o.colour} {o.shape}" for o in scene.objects]
    where = scene.relation or " ".join(scene.position or ())
    return "|".join([*looks, where, scene.background])


def is_held_out(scene: Scene) -> bool:
    """True for a fixed tenth of the compositions, whichever object of a pair comes first (A above B, B below A)."""
    keys = (composition(s) for s in (scene, mirrored(scene)))
    digest = hashlib.sha256(min(keys).encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32 < HELD_OUT_SHARE


def mirrored(scene: Scene) -> Scene:
    """The same image, described with its objects in the opposite order."""
    if scene.relation is None:
        return scene
    opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    return Scene(scene.background, scene.objects[::-1], relation=opposite[scene.relation])


def sample_split(rng: random.Random, held_out: bool) -> Scene:
    """Samples scenes until one belongs to the requested part of the split."""
    while is_held_out(scene := sample_scene(rng)) != held_out:
        pass
    return scene


def held_out_captions(count: int = NUM_TEST_CAPTIONS, seed: int = TEST_SEED) -> list[Caption]:
    """A fixed list of captions of held-out compositions."""
    return [caption for _, caption in held_out_scenes(count, seed)]


def held_out_scenes(count: int, seed: int = TEST_SEED) -> list[tuple[Scene, Caption]]:
    """Scenes of held-out compositions, each with a caption."""
    rng = random.Random(seed)
    scenes = (sample_split(rng, held_out=True) for _ in range(count))
    return [(scene, sample_caption(rng, scene)) for scene in scenes]


def sample_caption(rng: random.Random, scene: Scene) -> Caption:
    """Describes a scene in random words. Attributes omitted from the text are omitted from the list as well."""
    if scene.relation and rng.random() < 0.5:
        scene = mirrored(scene)
    text, attributes = _single(rng, scene) if len(scene.objects) == 1 else _pair(rng, scene)
    if rng.random() < 0.8:
        text += _background(rng, scene.background)
        attributes.append(Attribute("background", scene.background))
    return Caption(_finish(rng, text), (Attribute("count", str(len(scene.objects))), *attributes))


def _single(rng: random.Random, scene: Scene) -> tuple[str, list[Attribute]]:
    text, attributes = _noun_phrase(rng, scene, 0)
    if scene.position and rng.random() < 0.75:
        text += " " + _position(rng, *scene.position)
        attributes.append(Attribute("position", " ".join(scene.position)))
    return text, attributes


def _pair(rng: random.Random, scene: Scene) -> tuple[str, list[Attribute]]:
    first, attributes = _noun_phrase(rng, scene, 0)
    second, more = _noun_phrase(rng, scene, 1)
    attributes += more
    if not scene.relation or rng.random() < 0.2:
        return rng.choice((f"{first} and {second}", f"two shapes: {first} and {second}")), attributes
    attributes.append(Attribute("relation", scene.relation))
    text = f"{first} {rng.choice(RELATION_WORDS[scene.relation])} {second}"
    return ("two shapes: " + text if rng.random() < 0.1 else text), attributes


def _noun_phrase(rng: random.Random, scene: Scene, index: int) -> tuple[str, list[Attribute]]:
    """A phrase such as "a large red circle". It lacks the size in one case of five; rarely the colour or shape."""
    obj = scene.objects[index]
    words, attributes = [], []
    if rng.random() < 0.8:
        words.append(rng.choice(SIZE_WORDS[obj.size]))
        attributes.append(Attribute("size", obj.size, index))
    omitted = rng.choices(("none", "colour", "shape"), (0.9, 0.04, 0.06))[0]
    if omitted != "colour":
        words.append(obj.colour)
        attributes.append(Attribute("colour", obj.colour, index))
    if omitted != "shape":
        words.append(obj.shape)
        attributes.append(Attribute("shape", obj.shape, index))
    else:
        words.append(rng.choice(("shape", "object")))
    article = ("an" if words[0][0] in "aeiou" else "a") if rng.random() < 0.85 else ""
    return " ".join([article, *words]).strip(), attributes


def _position(rng: random.Random, row: str, column: str) -> str:
    middle = rng.choice(MIDDLE)
    if row == column == "centre":
        return rng.choice((f"in the {middle}", f"at the {middle}"))
    if column == "centre":
        return rng.choice((f"at the {row}", f"at the {row} {middle}", f"near the {row}"))
    if row == "centre":
        return rng.choice((f"on the {column}", f"on the {column} side", f"at the {middle} {column}"))
    return rng.choice((f"in the {row} {column} corner", f"at the {row} {column}", f"in the {row} {column}"))


def _background(rng: random.Random, background: str) -> str:
    word = rng.choice(BACKGROUND_WORDS.get(background, (background,)))
    return rng.choice(
        (f" on a {word} background", f" on {word}", f", {word} background", f" against a {word} background")
    )


def _finish(rng: random.Random, text: str) -> str:
    if rng.random() < 0.1:
        text = rng.choice(("a picture of ", "an image of ", "a drawing of ")) + text
    if rng.random() < 0.3:
        text = text[0].upper() + text[1:]
    return text + "." if rng.random() < 0.2 else text
