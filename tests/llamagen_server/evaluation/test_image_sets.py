"""Images in .npz files and in folders."""

from __future__ import annotations

import ast
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tests.helpers.image_files import noise

from llamagen_server.evaluation.image_folder import ImageFolder, find_images
from llamagen_server.evaluation.image_sets import open_images
from llamagen_server.evaluation.npz_images import npz_writer
from llamagen_server.evaluation.reference import open_reference


def read_as_adms_evaluator(path: Path, batch: int) -> np.ndarray:
    """Reads ``arr_0`` by the rules of ADM's evaluator: a zip member, its npy header, then raw bytes in batches."""
    parts = []
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        assert "arr_0.npy" in archive.namelist()
        with archive.open("arr_0.npy") as member:
            assert member.read(6) == b"\x93NUMPY"
            major, minor = member.read(2)
            assert (major, minor) in ((1, 0), (2, 0))
            header = member.read(int.from_bytes(member.read(2 if major == 1 else 4), "little"))
            described = ast.literal_eval(header.decode())
            assert not described["fortran_order"]
            count, *shape = described["shape"]
            dtype = np.dtype(described["descr"])
            for start in range(0, count, batch):
                images = min(batch, count - start)
                data = member.read(images * int(np.prod(shape)) * dtype.itemsize)
                parts.append(np.frombuffer(data, dtype).reshape(images, *shape))
            assert member.read() == b""
    return np.concatenate(parts)


def test_our_npz_is_read_by_adms_rules_and_by_numpy(tmp_path: Path) -> None:
    images, file = noise(7, 20, 24), tmp_path / "samples.npz"
    with npz_writer(file, (7, 20, 24, 3), {"cfg_scale": 2.0}) as add:
        add(images[:3])
        add(images[3:])
    np.testing.assert_array_equal(read_as_adms_evaluator(file, 4), images)
    with np.load(file) as arrays:
        assert arrays["arr_0"].dtype == np.uint8
        np.testing.assert_array_equal(arrays["arr_0"], images)
        assert "mu" not in list(arrays.keys())  # as the evaluator asks
    opened = open_images(file)
    assert (opened.count, opened.size, opened.settings()) == (7, (20, 24), {"cfg_scale": 2.0})
    batches = list(opened.batches(3))
    assert [len(batch) for batch in batches] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate(batches), images)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_files_of_numpy_are_read(save, tmp_path: Path) -> None:
    images = noise(5, 16, 16)
    save(tmp_path / "samples.npz", arr_0=images)
    np.testing.assert_array_equal(read_as_adms_evaluator(tmp_path / "samples.npz", 2), images)
    opened = open_images(tmp_path / "samples.npz")
    assert opened.settings() == {}
    np.testing.assert_array_equal(np.concatenate(list(opened.batches(2))), images)


def test_a_writer_with_other_images_than_stated_fails(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="2 images were written, expected 3"),
        npz_writer(tmp_path / "a.npz", (3, 16, 16, 3), {}) as add,
    ):
        add(noise(2, 16, 16))
    with (
        pytest.raises(ValueError, match=r"\[8, 8, 3\], expected \[16, 16, 3\]"),
        npz_writer(tmp_path / "a.npz", (2, 16, 16, 3), {}) as add,
    ):
        add(noise(2, 8, 8))


def test_files_that_hold_no_images_are_named(tmp_path: Path) -> None:
    file = tmp_path / "x.npz"
    with pytest.raises(ValueError, match="does not exist"):
        open_images(file)
    file.write_bytes(b"no zip")
    with pytest.raises(ValueError, match=r"not an \.npz file"):
        open_images(file)
    np.savez(file, other=np.zeros(3))
    with pytest.raises(ValueError, match=r"has no arr_0 \(images\), it has other\.npy"):
        open_images(file)
    np.savez(file, arr_0=np.zeros((2, 8, 8, 3), np.float32))
    with pytest.raises(ValueError, match=r"arr_0 is float32 \[2, 8, 8, 3\], expected uint8"):
        open_images(file)
    np.savez(file, arr_0=noise(2, 8, 8))
    with pytest.raises(ValueError, match="--image-size resizes the images of folders only"):
        open_images(file, 16)


def test_an_incomplete_array_is_found(tmp_path: Path) -> None:
    whole = io.BytesIO()
    np.save(whole, noise(4, 8, 8))
    with zipfile.ZipFile(tmp_path / "cut.npz", "w") as archive:
        archive.writestr("arr_0.npy", whole.getvalue()[:-10])
    with pytest.raises(ValueError, match="arr_0 ends before image 4 of 4"):
        list(open_images(tmp_path / "cut.npz").batches(2))


def save_png(path: Path, pixels: np.ndarray, **texts: str) -> None:
    info = PngInfo()
    for name, text in texts.items():
        info.add_itxt(name, text)
    Image.fromarray(pixels).save(path, pnginfo=info)


def test_a_folder_is_read_in_order_with_captions_and_settings(tmp_path: Path) -> None:
    images = noise(6, 12, 12)
    for i in (4, 2, 0, 1, 3, 5):
        save_png(tmp_path / f"{i:06d}.png", images[i], prompt=f"image {i} é", settings=json.dumps({"seed": i}))
    (tmp_path / "notes.txt").write_text("not an image")
    folder = open_images(tmp_path)
    assert isinstance(folder, ImageFolder)
    np.testing.assert_array_equal(np.concatenate(list(folder.batches(4))), images)
    assert folder.captions() == [f"image {i} é" for i in range(6)]
    assert folder.settings() == {"seed": 0}
    before = folder.sha256()
    save_png(tmp_path / "000003.png", images[2])
    assert folder.sha256() != before


def test_images_of_other_sizes_need_image_size(tmp_path: Path) -> None:
    Image.fromarray(noise(1, 40, 20)[0]).save(tmp_path / "a.png")
    Image.fromarray(noise(1, 20, 40)[0]).save(tmp_path / "b.jpg")
    with pytest.raises(ValueError, match=r"b\.jpg: 40x20, but a\.png is 20x40; give --image-size"):
        list(open_images(tmp_path).batches(2))
    [batch] = open_images(tmp_path, 16).batches(2)
    assert batch.shape == (2, 16, 16, 3)


def test_unreadable_and_missing_images_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no images"):
        find_images([tmp_path])
    with pytest.raises(ValueError, match="nothing does not exist"):
        find_images([tmp_path / "nothing"])
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"a\.png is not an image file that can be read"):
        open_images(tmp_path)


def test_references_have_images_or_statistics_or_both(tmp_path: Path) -> None:
    file, images = tmp_path / "reference.npz", noise(3, 8, 8)
    stored = {"mu": np.zeros(4), "sigma": np.eye(4), "mu_s": np.ones(2), "sigma_s": np.eye(2)}
    np.savez(file, arr_0=images, **stored)
    both = open_reference(file)
    assert both.images
    assert both.images.count == 3
    assert both.pooled
    assert both.spatial
    np.testing.assert_array_equal(both.spatial.mean, np.ones(2))
    np.savez(file, mu=stored["mu"], sigma=stored["sigma"])  # pytorch-fid's
    only_pooled = open_reference(file)
    assert (only_pooled.images, only_pooled.spatial) == (None, None)
    np.savez(file, mu=np.zeros(4), sigma=np.eye(3))
    with pytest.raises(ValueError, match=r"mu has 4 features, sigma \[3, 3\]"):
        open_reference(file)
    np.savez(file, other=np.zeros(2))
    with pytest.raises(ValueError, match="no reference; expected arr_0"):
        open_reference(file)
