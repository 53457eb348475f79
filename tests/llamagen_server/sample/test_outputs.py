"""Files of samples, and what is left of them after a crash."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from llamagen_server.evaluation.image_sets import open_images
from llamagen_server.sample.join import join_shards
from llamagen_server.sample.outputs import NpzOutput, PngOutput
from llamagen_server.sample.plan import Shard

SETTINGS: dict[str, Any] = {"model": "tiny", "cfg_scale": 2.0}
COUNT, SIDE, TOKENS = 7, 8, 4


def pixels_of(index: int) -> np.ndarray:
    return np.full((SIDE, SIDE, 3), index + 1, np.uint8)


def open_npz(path: Path, indices: range = range(COUNT), **settings: Any) -> NpzOutput:
    return NpzOutput(path, indices, SIDE, TOKENS, SETTINGS | settings)


def fill(output: NpzOutput | PngOutput, indices: range) -> None:
    for index in indices:
        assert not output.has(index)
        output.write(index, pixels_of(index), [index] * TOKENS)
        assert output.has(index)


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A file that was written in one go."""
    output = open_npz(tmp_path / "whole.npz")
    fill(output, range(COUNT))
    output.finish()
    return output.path


def test_numpy_and_the_evaluation_read_the_file(whole: Path) -> None:
    with np.load(whole) as arrays:
        assert sorted(arrays.files) == ["arr_0", "codes", "settings.json"]
        assert (arrays["arr_0"] == np.stack([pixels_of(i) for i in range(COUNT)])).all()
        assert arrays["codes"].dtype == np.int32
        assert arrays["codes"][:, 0].tolist() == list(range(COUNT))
    images = open_images(whole)
    assert (images.count, images.size, images.settings()) == (COUNT, (SIDE, SIDE), SETTINGS)
    assert not whole.with_name("whole.npz.partial").exists()


def test_a_file_that_is_continued_has_the_same_bytes(tmp_path: Path, whole: Path) -> None:
    path = tmp_path / "continued.npz"
    for part in (range(4, 7), range(2), range(2, 4)):
        output = open_npz(path)  # the one before was never finished, as after a SIGKILL
        fill(output, part)
        output.close()
        assert not path.exists()
    output = open_npz(path)
    output.finish()
    assert path.read_bytes() == whole.read_bytes()


def test_a_finished_file_is_left_alone(whole: Path) -> None:
    before = whole.stat()
    output = open_npz(whole)
    assert all(output.has(index) for index in range(COUNT))
    output.finish()
    assert whole.stat().st_mtime_ns == before.st_mtime_ns


def test_an_image_that_was_not_marked_is_made_again(tmp_path: Path) -> None:
    """A process that is killed while it writes an image has not marked it."""
    output = open_npz(tmp_path / "a.npz")
    output._images[3] = 255
    output.close()
    assert not open_npz(tmp_path / "a.npz").has(3)


@pytest.mark.parametrize("finished", [True, False])
def test_other_settings_are_refused(tmp_path: Path, finished: bool) -> None:
    output = open_npz(tmp_path / "a.npz")
    if finished:
        fill(output, range(COUNT))
        output.finish()
    output.close()
    with pytest.raises(ValueError, match=r"cfg_scale is 2.0 there, 4.0 now; remove it or choose another --out"):
        open_npz(tmp_path / "a.npz", cfg_scale=4.0)


def test_two_processes_do_not_write_one_file(tmp_path: Path) -> None:
    first = open_npz(tmp_path / "a.npz")
    with pytest.raises(ValueError, match="another process writes samples there"):
        open_npz(tmp_path / "a.npz")
    first.close()
    open_npz(tmp_path / "a.npz").close()


def test_a_disk_that_is_too_small(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a.npz: \d+\.\d GiB are needed while it is written, \d+\.\d are free"):
        NpzOutput(tmp_path / "a.npz", range(10**9), 256, 0, SETTINGS)
    assert not list(tmp_path.iterdir())


def shard_files(tmp_path: Path, of: int = 3) -> Iterator[Path]:
    for number in range(1, of + 1):
        indices = Shard(number, of).indices(COUNT)
        output = open_npz(tmp_path / f"{number}.npz", indices, shard=f"{number}/{of}")
        fill(output, indices)
        output.finish()
        yield output.path


def test_shards_join_into_the_file_of_one_run(tmp_path: Path, whole: Path) -> None:
    files = list(shard_files(tmp_path))
    assert join_shards(files[::-1], tmp_path / "all.npz") == COUNT
    assert (tmp_path / "all.npz").read_bytes() == whole.read_bytes()


def test_what_does_not_join(tmp_path: Path, whole: Path) -> None:
    files = list(shard_files(tmp_path))
    for given, message in (
        (files[:2], "needs each of the 3 shards once, got 1/3, 2/3"),
        ([whole], "made without --shard"),
    ):
        with pytest.raises(ValueError, match=message):
            join_shards(given, tmp_path / "all.npz")
    copy = tmp_path / "copy.npz"
    copy.write_bytes(files[0].read_bytes())
    with pytest.raises(ValueError, match="got 1/3, 1/3, 2/3, 3/3"):
        join_shards([*files, copy], tmp_path / "all.npz")
    with pytest.raises(ValueError, match="exists"):
        join_shards(files, whole)


def open_folder(path: Path, **settings: Any) -> PngOutput:
    return PngOutput(path, SETTINGS | settings, lambda index: ("ein Käse", {"index": index}), codes=True)


def test_a_folder_is_continued_and_its_images_state_what_they_are(tmp_path: Path) -> None:
    output = open_folder(tmp_path / "images")
    fill(output, range(3))
    output.close()
    (tmp_path / "images" / "000003.new").write_bytes(b"half")  # killed while it wrote
    output = open_folder(tmp_path / "images")
    assert [output.has(index) for index in range(5)] == [True, True, True, False, False]
    fill(output, range(3, COUNT))
    output.close()
    file = tmp_path / "images" / "000004.png"
    with Image.open(io.BytesIO(file.read_bytes())) as image:
        assert (np.asarray(image) == pixels_of(4)).all()
        assert image.info["prompt"] == "ein Käse"
        assert json.loads(image.info["settings"]) == {**SETTINGS, "index": 4}
    assert json.loads((tmp_path / "images" / "codes" / "000004.json").read_text()) == [4] * TOKENS
    assert open_images(tmp_path / "images").count == COUNT
    with pytest.raises(ValueError, match="cfg_scale is 2.0 there, 1.0 now"):
        open_folder(tmp_path / "images", cfg_scale=1.0)


def test_foreign_images_are_none_of_ours(tmp_path: Path) -> None:
    (tmp_path / "000000.png").write_bytes(b"of the official sampler")
    with pytest.raises(ValueError, match=r"has images without settings.json: choose an empty folder"):
        open_folder(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["000000.png"]


def test_what_a_killed_run_did_not_remove(whole: Path) -> None:
    partial = whole.with_name("whole.npz.partial")
    partial.mkdir()
    (partial / "images.npy").write_bytes(b"much")
    open_npz(whole)
    assert not partial.exists()
