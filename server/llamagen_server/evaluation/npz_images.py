"""Images in an ``.npz`` file, as ADM's evaluator reads and the official samplers write it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from zipfile import BadZipFile, ZipFile, ZipInfo

import numpy as np
from numpy.typing import NDArray

from llamagen_server.core.results import Pixels
from llamagen_server.evaluation.settings import file_sha256, parse_settings

ARRAY = "arr_0"
"""The array of images."""
SETTINGS = "settings.json"
"""Member of the file with the settings of its images; other readers ignore it."""

_npy: Any = np.lib.format  # untyped
_HEADERS = {(1, 0): _npy.read_array_header_1_0, (2, 0): _npy.read_array_header_2_0}


class NpzImages:
    """The images ``arr_0`` of an ``.npz`` file, uint8 [N, height, width, 3]; they are streamed."""

    resize = "none"

    def __init__(self, path: Path) -> None:
        """Raises ValueError if there are no such images in the file."""
        self.path = path
        with self._open() as (_, shape):
            self.count, height, width, _ = shape
        self.size = (height, width)

    def batches(self, size: int) -> Iterator[Pixels]:
        with self._open() as (file, shape):
            image_bytes = shape[1] * shape[2] * shape[3]
            for start in range(0, self.count, size):
                count = min(size, self.count - start)
                data = file.read(count * image_bytes)
                if len(data) < count * image_bytes:
                    raise ValueError(
                        f"{self.path}: incomplete, {ARRAY} ends before image {start + count} of {self.count}"
                    )
                yield np.frombuffer(data, np.uint8).reshape(count, *shape[1:]).copy()

    def settings(self) -> dict[str, Any]:
        with open_archive(self.path) as archive:
            if SETTINGS not in archive.namelist():
                return {}
            return parse_settings(archive.read(SETTINGS), f"{self.path}: {SETTINGS}")

    def sha256(self) -> str:
        return file_sha256(self.path)

    @contextmanager
    def _open(self) -> Iterator[tuple[IO[bytes], tuple[int, ...]]]:
        """Opens the data of the array, after its header; gives its shape too."""
        with open_archive(self.path) as archive:
            name = f"{ARRAY}.npy"
            if name not in archive.namelist():
                names = ", ".join(archive.namelist()) or "nothing"
                raise ValueError(f"{self.path}: has no {ARRAY} (images), it has {names}")
            with archive.open(name) as file:
                yield file, self._read_shape(file)

    def _read_shape(self, file: IO[bytes]) -> tuple[int, ...]:
        version = _npy.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"{self.path}: {ARRAY} has the npy format {version[0]}.{version[1]}, expected 1.0 or 2.0")
        shape, is_fortran, dtype = _HEADERS[version](file)
        if dtype != np.uint8 or is_fortran or len(shape) != 4 or shape[3] != 3 or 0 in shape:
            order = " in Fortran order" if is_fortran else ""
            raise ValueError(
                f"{self.path}: {ARRAY} is {dtype} {list(shape)}{order}, expected uint8 [images, height, width, 3]"
            )
        return tuple(shape)


def open_archive(path: Path) -> ZipFile:
    """Opens an ``.npz``. Raises ValueError if it is none."""
    try:
        return ZipFile(path)
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except BadZipFile:
        raise ValueError(f"{path}: not an .npz file, or an incomplete one") from None


@contextmanager
def npz_writer(
    path: Path, shape: tuple[int, ...], settings: dict[str, Any], arrays: Mapping[str, NDArray[Any]] | None = None
) -> Iterator[Callable[[Pixels], None]]:
    """Writes images of the shape [images, height, width, 3], their settings and other arrays, uncompressed.

    NumPy and ADM's evaluator read the file too. Its bytes depend on the content alone. Gives the function that adds a
    batch of images.

    Raises:
        ValueError: the images are not as many, or not of the size, that the shape states; the file is then incomplete.
    """
    written = 0
    with ZipFile(path, "w") as archive:
        with archive.open(ZipInfo(f"{ARRAY}.npy"), "w", force_zip64=True) as file:
            _npy.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})

            def add(batch: Pixels) -> None:
                nonlocal written
                if batch.shape[1:] != shape[1:] or batch.dtype != np.uint8:
                    raise ValueError(f"images are {batch.dtype} {list(batch.shape[1:])}, expected {list(shape[1:])}")
                file.write(np.ascontiguousarray(batch).data)
                written += len(batch)

            yield add
        for name, array in (arrays or {}).items():
            with archive.open(ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
                _npy.write_array(file, array)
        archive.writestr(ZipInfo(SETTINGS), json.dumps(settings, indent=2) + "\n")
    if written != shape[0]:
        raise ValueError(f"{path}: {written} images were written, expected {shape[0]}")
