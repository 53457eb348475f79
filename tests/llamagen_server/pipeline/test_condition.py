"""The class of a request, by id and by name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from llamagen_server.core.errors import InvalidRequestError
from llamagen_server.core.request import ImageRequest
from llamagen_server.model_dir import ModelDir
from llamagen_server.pipeline.condition import resolve_condition


@pytest.fixture(scope="module")
def labelled(class_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelDir:
    directory = tmp_path_factory.mktemp("labelled") / "model"
    shutil.copytree(class_model_dir, directory)
    (directory / "labels.json").write_text('{"3": ["Labrador retriever"], "5": ["tree frog", "tree-frog"]}')
    return ModelDir.open(directory)


def test_a_prompt_is_the_name_of_a_class(labelled: ModelDir) -> None:
    assert resolve_condition(ImageRequest(prompt="labrador-retriever"), labelled) == 3
    assert resolve_condition(ImageRequest(class_label="Tree_Frog"), labelled) == 5
    assert resolve_condition(ImageRequest(prompt="", class_id=7), labelled) == 7  # OpenAI's clients must send a prompt


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"prompt": "retriever"}, "prompt", "prompt 'retriever' is not a label of this model; nearest: Labrador"),
        (
            {"class_label": "tre frog"},
            "class_label",
            "class_label 'tre frog' is not a label of this model; nearest: tree",
        ),
        ({"prompt": "tree frog", "class_id": 5}, "prompt", "prompt and a class are both given: give one"),
        ({"prompt": "tree frog", "class_label": "tree frog"}, "prompt", "prompt and a class are both given: give one"),
        ({"class_id": 5, "class_label": "tree frog"}, "class_label", "class_id and class_label are both given"),
    ],
)
def test_a_condition_that_is_not_one_class(
    labelled: ModelDir, fields: dict[str, object], param: str, message: str
) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        resolve_condition(ImageRequest(**fields), labelled)
    assert str(raised.value).startswith(message)
    assert raised.value.param == param


def test_a_long_unknown_prompt_is_shortened_in_the_error(labelled: ModelDir) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        resolve_condition(ImageRequest(prompt="x" * 4096), labelled)
    assert len(str(raised.value)) < 130
