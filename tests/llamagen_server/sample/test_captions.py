"""Captions in the forms of the benchmarks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llamagen_server.sample.captions import read_captions

FORMS = {
    # One caption a line; blank lines do not count.
    "captions.txt": "a red circle\n\n  a blue star \n",
    # As PartiPrompts: tab-separated, quotes are ordinary characters.
    "PartiPrompts.tsv": 'Prompt\tCategory\tChallenge\na red circle\tA\tB\n"a" blue star\tA\tB\n',
    # As COCO in a table.
    "coco.csv": 'image_id,caption\n7,"a red circle, large"\n8,a blue star\n',
    # As DPG: one row per question, and the rows of an item repeat its text.
    "dpg_bench.csv": "item_id,text,question\na1,a red circle,q1\na1,a red circle,q2\nb2,a blue star,q1\n",
    # As GenEval.
    "evaluation_metadata.jsonl": '{"tag": "x", "prompt": "a red circle"}\n{"tag": "y", "prompt": "a blue star"}\n',
    # COCO's annotations.
    "captions_val2017.json": json.dumps(
        {"images": [], "annotations": [{"id": 1, "caption": "a red circle"}, {"id": 2, "caption": "a blue star"}]}
    ),
    "list.json": '["a red circle", "a blue star"]',
}
EXPECTED = {
    "PartiPrompts.tsv": ["a red circle", '"a" blue star'],
    "coco.csv": ["a red circle, large", "a blue star"],
}


@pytest.mark.parametrize("name", FORMS)
def test_forms_of_benchmarks(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_text(FORMS[name])
    assert read_captions(file) == EXPECTED.get(name, ["a red circle", "a blue star"])


def test_only_line_feeds_end_lines(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("one\u2028 still\x0bone\r\ntwo\n".encode())
    assert read_captions(tmp_path / "a.txt") == ["one\u2028 still\x0bone", "two"]
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": "one\u2028 one"}, ensure_ascii=False))
    assert read_captions(tmp_path / "a.jsonl") == ["one\u2028 one"]


def test_a_folder_with_a_caption_per_file(tmp_path: Path) -> None:
    for name, text in {"b.txt": "second\n", "a.txt": "first", "notes.md": "no"}.items():
        (tmp_path / name).write_text(text)
    assert read_captions(tmp_path) == ["first", "second"]


def test_the_column_may_be_named(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("caption,long_caption\nshort,long\n")
    assert read_captions(file, "Long_Caption") == ["long"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "id,name\n1,x\n", "has no column caption, prompt, text; name one with --column; it has id, name"),
        ("a.txt", "\n\n", "no captions"),
        ("a.jsonl", '{"prompt": 1}\nnothing\n', "line 2: not JSON"),
        ("a.json", '{"a": 1}', "must be a list, or COCO's annotations"),
        ("a.json", "[1]", "must have captions, or objects with captions"),
        ("a.json", '["a", {"caption": "b"}]', "must have captions, or objects with captions"),
        ("a.jsonl", '{"prompt": "a"}\n{"prompt": ["b"]}', "row 2: prompt is ['b'], must be a text"),
        ("a.jsonl", '{"prompt": "a"}\n{"Prompt": "b"}', "row 2: prompt is None, must be a text"),
        ("a.parquet", "x", "unknown form of captions, must be a folder or one of .txt, .csv, .tsv, .jsonl, .json"),
        ("a.txt", "a\n" + "x" * 5000, "caption 2 has 5000 characters, at most 4096 are allowed"),
    ],
)
def test_files_without_captions(tmp_path: Path, name: str, content: str, message: str) -> None:
    file = tmp_path / name
    file.write_text(content)
    with pytest.raises(ValueError, match="^[^\n]*$") as error:
        read_captions(file)
    assert message in str(error.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        read_captions(tmp_path / "a.txt")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ValueError, match="cannot be read"):
        read_captions(tmp_path / "b.txt")
