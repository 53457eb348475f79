"""Joins the shards of a set into the file that one run would have made."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from llamagen_server.evaluation.npz_images import NpzImages, npz_writer, open_archive
from llamagen_server.sample.outputs import BATCH, CODES, check_settings
from llamagen_server.sample.plan import Shard


def join_shards(files: Sequence[Path], out: Path) -> int:
    """Writes ``out`` and returns its number of images.

    Raises:
        ValueError: a file is no shard, a shard is missing or there twice, or they have different settings.
    """
    if out.exists():
        raise ValueError(f"--out {out} exists")
    shards = {file: NpzImages(file) for file in files}
    settings = {file: images.settings() for file, images in shards.items()}
    numbers = {file: _shard(file, settings[file].pop("shard", None)) for file in files}
    of = numbers[files[0]].of
    by_number = {number.number: file for file, number in numbers.items()}
    if len(by_number) != len(files) or sorted(by_number) != list(range(1, of + 1)):
        found = ", ".join(map(str, sorted(numbers.values(), key=lambda shard: shard.number)))
        raise ValueError(f"--join needs each of the {of} shards once, got {found}")
    for file in files[1:]:
        check_settings(file, settings[file], settings[files[0]], f"in {files[0]}")
    ordered = [by_number[number] for number in sorted(by_number)]
    count = sum(shards[file].count for file in ordered)
    unfinished = out.with_name(out.name + ".new")
    codes = [_codes(file) for file in ordered]
    arrays = {CODES: np.concatenate(codes)} if all(len(array) for array in codes) else {}
    with npz_writer(unfinished, (count, *shards[files[0]].size, 3), settings[files[0]], arrays) as add:
        for batch in chain.from_iterable(shards[file].batches(BATCH) for file in ordered):
            add(batch)
    os.replace(unfinished, out)
    return count


def _shard(file: Path, text: object) -> Shard:
    if not isinstance(text, str):
        raise ValueError(f"{file}: no shard of samples, it was made without --shard")
    return Shard.parse(text)


def _codes(file: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
    with open_archive(file) as archive:
        if f"{CODES}.npy" not in archive.namelist():
            return np.zeros((0, 0), np.int32)
        with archive.open(f"{CODES}.npy") as member:
            return np.lib.format.read_array(member)  # type: ignore[no-untyped-call]
