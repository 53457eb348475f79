"""Captions from the files of benchmarks: COCO, PartiPrompts, GenEval, DPG, or one caption a line."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llamagen_server.core.request import MAX_PROMPT

COLUMNS = ("caption", "prompt", "text")
"""Columns with captions, in any case: COCO's, PartiPrompts' and GenEval's, DPG's. The first one found counts."""
ITEM = "item_id"
"""Column of DPG's table, which has one row per question: the rows of an item repeat its caption."""


def read_captions(path: Path, column: str | None = None) -> list[str]:
    """Returns the captions of a file, or of a folder with one caption per ``.txt`` file, in order of the names.

    Args:
        path: ``.txt`` (one caption a line), ``.csv``, ``.tsv``, ``.jsonl``, or ``.json`` (COCO's annotations, or a
            list of captions or of objects).
        column: name of the column with captions; by default the first of `COLUMNS` that there is.

    Raises:
        ValueError: there are no captions, or the file is not of its form.
    """
    read = _read_folder if path.is_dir() else READERS.get(path.suffix.lower())
    if read is None:
        raise ValueError(f"{path}: unknown form of captions, must be a folder or one of {', '.join(READERS)}")
    try:
        rows = read(path)
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: cannot be read ({error})") from None
    captions = _captions(rows, column, path)
    for number, caption in enumerate(captions, 1):
        if len(caption) > MAX_PROMPT:
            raise ValueError(
                f"{path}: caption {number} has {len(caption)} characters, at most {MAX_PROMPT} are allowed"
            )
    if not captions:
        raise ValueError(f"{path}: no captions")
    return captions


def _captions(rows: list[Any], column: str | None, path: Path) -> list[str]:
    """Returns the captions of rows that are texts or objects, without empty ones."""
    if all(isinstance(row, str) for row in rows):
        return [text for row in rows if (text := row.strip())]
    if not all(isinstance(row, Mapping) for row in rows):
        raise ValueError(f"{path}: must have captions, or objects with captions")
    name = _column(rows[0], column, path)
    captions, last_item = [], None
    for number, row in enumerate(rows, 1):
        if not isinstance(text := row.get(name), str):
            raise ValueError(f"{path}: row {number}: {name} is {text!r}, must be a text")
        item = row.get(ITEM)
        if (item is None or item != last_item) and text.strip():
            captions.append(text.strip())
        last_item = item
    return captions


def _column(row: Mapping[str, Any], column: str | None, path: Path) -> str:
    by_name = {str(name).casefold(): name for name in row}
    for name in (column.casefold(),) if column else COLUMNS:
        if name in by_name:
            return str(by_name[name])
    wanted = f"column {column}" if column else f"column {', '.join(COLUMNS)}; name one with --column"
    raise ValueError(f"{path}: has no {wanted}; it has {', '.join(map(str, row))}")


def _read_folder(path: Path) -> list[Any]:
    return [file.read_text(encoding="utf-8") for file in sorted(path.glob("*.txt"))]


def _read_lines(path: Path) -> list[Any]:
    return path.read_text(encoding="utf-8-sig").split("\n")  # splitlines() has more ends of lines; read_text reads \r\n


def _read_table(path: Path) -> list[Any]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        if path.suffix.lower() == ".tsv":
            return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
        return list(csv.DictReader(file))


def _read_json_lines(path: Path) -> list[Any]:
    return [_json(line, f"{path}: line {number}") for number, line in enumerate(_read_lines(path), 1) if line.strip()]


def _read_json(path: Path) -> list[Any]:
    content = _json(path.read_text(encoding="utf-8-sig"), str(path))
    if isinstance(content, dict) and isinstance(content.get("annotations"), list):
        content = content["annotations"]
    if not isinstance(content, list):
        raise ValueError(f"{path}: must be a list, or COCO's annotations")
    return content


def _json(text: str, source: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{source}: not JSON ({error})") from None


READERS: Mapping[str, Callable[[Path], list[Any]]] = {
    ".txt": _read_lines,
    ".csv": _read_table,
    ".tsv": _read_table,
    ".jsonl": _read_json_lines,
    ".json": _read_json,
}
