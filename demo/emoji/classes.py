"""The classes: emoji, and the names by which they can be requested."""

from __future__ import annotations

import unicodedata

CLASSES: tuple[tuple[str, ...], ...] = (
    ("🐱", "cat", "kitten"),
    ("🐶", "dog", "puppy"),
    ("🦊", "fox"),
    ("🦁", "lion"),
    ("🐯", "tiger"),
    ("🦄", "unicorn"),
    ("🐮", "cow"),
    ("🐷", "pig"),
    ("🐭", "mouse"),
    ("🐰", "rabbit", "bunny"),
    ("🐼", "panda", "giant panda"),
    ("🐸", "frog"),
    ("🐵", "monkey"),
    ("🐔", "chicken", "hen"),
    ("🐧", "penguin"),
    ("🦉", "owl"),
    ("🐢", "turtle", "tortoise"),
    ("🐍", "snake"),
    ("🐙", "octopus"),
    ("🐟", "fish"),
    ("🐳", "whale"),
    ("🦋", "butterfly"),
    ("🐝", "bee"),
    ("🐞", "ladybug", "ladybird"),
    ("🍎", "apple"),
    ("🍌", "banana"),
    ("🍇", "grapes"),
    ("🍉", "watermelon"),
    ("🍓", "strawberry"),
    ("🍍", "pineapple"),
    ("🍒", "cherries", "cherry"),
    ("🥕", "carrot"),
    ("🌽", "corn", "maize"),
    ("🧀", "cheese"),
    ("🍕", "pizza"),
    ("🍔", "hamburger", "burger"),
    ("🍟", "french fries", "fries", "chips"),
    ("🍰", "cake"),
    ("🍩", "doughnut", "donut"),
    ("🍦", "ice cream", "ice cream cone"),
    ("🍳", "fried egg", "egg"),
    ("🍄", "mushroom", "toadstool"),
    ("🚗", "car"),
    ("🚕", "taxi", "cab"),
    ("🚌", "bus"),
    ("🚒", "fire engine", "fire truck"),
    ("🚜", "tractor"),
    ("🚆", "train"),
    ("🚀", "rocket"),
    ("⛵", "sailboat", "boat"),
    ("🚁", "helicopter"),
    ("⚽", "soccer ball", "football"),
    ("🎸", "guitar"),
    ("☂", "umbrella"),
    ("💣", "bomb"),
    ("🔑", "key"),
    ("💡", "light bulb", "lamp"),
    ("⏰", "alarm clock", "clock"),
    ("🎁", "gift", "present"),
    ("🎈", "balloon"),
    ("🎃", "pumpkin"),
    ("🌵", "cactus"),
    ("🌻", "sunflower"),
    ("🌲", "tree", "fir"),
)
"""The emoji of each class and its names, the usual one first; the class id is the position."""


def labels() -> dict[int, list[str]]:
    """Returns the names of each class id: those of `CLASSES`, then the emoji's name in Unicode and the emoji itself."""
    every = {}
    for class_id, (emoji, *names) in enumerate(CLASSES):
        every[class_id] = list(dict.fromkeys([*names, unicodedata.name(emoji).lower(), emoji]))
    return every
