"""Names of classes: ImageNet's, and the search for one."""

from __future__ import annotations

import re

import pytest

from llamagen_server.model_dir.labels import find_class, imagenet_labels, nearest_names


def test_imagenets_labels() -> None:
    labels = imagenet_labels()
    assert sorted(labels) == list(range(1000))
    assert labels[0] == ["tench", "Tinca tinca"]
    assert labels[207] == ["golden retriever"]
    assert labels[999] == ["toilet tissue", "toilet paper", "bathroom tissue"]
    assert sum(map(len, labels.values())) == 1860


@pytest.mark.parametrize(
    ("name", "class_id"),
    [
        ("golden retriever", 207),
        ("  Golden_Retriever ", 207),
        ("tree-frog", 31),
        ("TREE  FROG", 31),
        ("shih tzu", 155),
        ("Carassius auratus", 1),
        ("partridge", 86),  # also a synonym of 82, ruffed grouse
    ],
)
def test_a_class_by_name(name: str, class_id: int) -> None:
    assert find_class(name, imagenet_labels()) == class_id


def test_every_usual_name_finds_its_class_or_is_that_of_two() -> None:
    labels = imagenet_labels()
    twice = {"crane": (134, 517), "cardigan": (264, 474), "maillot": (638, 639)}
    for class_id, names in labels.items():
        if class_id not in sum(twice.values(), ()):
            assert find_class(names[0], labels) == class_id
    for name, ids in twice.items():
        with pytest.raises(ValueError, match=rf"give class_id: {ids[0]} \(.*, {ids[1]} \("):
            find_class(name, labels)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("golden retreiver", "is not a label of this model; nearest: golden retriever"),
        ("retriever", "nearest: golden retriever, Labrador retriever, flat-coated retriever, curly-coated retriever"),
        ("quxquxqux", "is not a label of this model"),
        ("", "is not a label of this model"),
        ("crane", "names several classes, give class_id: 134 (crane), 517 (crane)"),
        ("panther", "names several classes, give class_id: 286 (cougar, puma, "),
    ],
)
def test_a_name_that_does_not_find_one_class(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        find_class(name, imagenet_labels())


def test_nearest_names_are_few_and_each_once() -> None:
    names = [name for names in imagenet_labels().values() for name in names]
    assert len(nearest_names("dog", names)) == 5
    assert nearest_names("Tree_Frog", names) == ["tree frog", "tailed frog"]
    assert nearest_names("x" * 4096, names) == []
