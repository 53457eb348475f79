"""Image files as people have them: depths, colour modes, metadata, formats."""

from __future__ import annotations

import base64
import io
import struct
import time
import tracemalloc
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, TiffImagePlugin
from tests.helpers.image_files import png

from llamagen_server.core import logs
from llamagen_server.image_files.reading import decode_base64, read_image_file

RAMP = np.arange(0, 256, 4, np.uint8)[None, :].repeat(64, 0)
"""Grey from black to almost white."""
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))


def file(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bits_are_scaled_to_8(kind: str) -> None:
    image = read_image_file(file(Image.fromarray(RAMP.astype(np.uint16) * 257), kind))
    assert (np.asarray(image) == RAMP[:, :, None]).all()


@pytest.mark.parametrize("white", [1.0, 255.0, 65535.0])
def test_floating_point_is_scaled_to_8_bits(white: float) -> None:
    values = RAMP.astype(np.float32) / 255 * white
    values[0, :3] = np.nan, -np.inf, -1.0
    read = np.asarray(read_image_file(file(Image.fromarray(values), "TIFF")))[:, :, 0]
    assert (read[1:] == RAMP[1:]).all()
    assert read[0, :3].tolist() == [0, 0, 0]


@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_values_above_white_do_not_darken_an_image(scale: float) -> None:
    """Highlights of a few pixels, and values that a filter or rounding has put a little above white anywhere."""
    values = RAMP.astype(np.float32) / 255 * scale
    values[:, 60:] = 1.2 * scale
    values[0, 60:64] = 50 * scale, 1e6, np.inf, 3e38
    read = np.asarray(read_image_file(file(Image.fromarray(values), "TIFF")))[:, :, 0]
    assert (read[:, :60] == RAMP[:, :60]).all()
    assert (read[:, 60:] == 255).all()


def test_values_beyond_every_scale() -> None:
    values = RAMP.astype(np.float32) * 1e6
    read = np.asarray(read_image_file(file(Image.fromarray(values), "TIFF")))[:, :, 0]
    assert np.abs(read - RAMP * (255 / 252)).max() <= 0.5


def test_16_bits_with_a_sign_are_scaled_to_8() -> None:
    data = file(Image.fromarray(RAMP.astype(np.uint16) * 128), "TIFF", tiffinfo={TiffImagePlugin.SAMPLEFORMAT: 2})
    assert Image.open(io.BytesIO(data)).mode == "I"
    read = np.asarray(read_image_file(data))[:, :, 0].astype(int)
    assert np.abs(read - RAMP).max() <= 1


@pytest.mark.parametrize(("white", "step"), [(255, 1), (65535, 257)])
def test_32_bit_integers_are_scaled_to_8(white: int, step: int) -> None:
    values = RAMP.astype(np.int32) * step
    values[0, 0] = white
    read = np.asarray(read_image_file(file(Image.fromarray(values), "TIFF")))[:, :, 0]
    assert (read[1:] == RAMP[1:]).all()


def test_a_grey_png_of_16_bits(data_dir: Path) -> None:
    """The case that once turned white (Pillow issues 2574 and 3011)."""
    image = read_image_file((data_dir / "cases/grey16.png").read_bytes())
    with Image.open(data_dir / "cases/grey16.png") as stored:
        expected = np.asarray(stored).astype(float) / 257
    assert image.mode == "RGB"
    assert np.abs(np.asarray(image)[:, :, 0] - expected).max() <= 0.5


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_colour_modes(mode: str) -> None:
    kind = {"CMYK": "TIFF", "YCbCr": "TIFF"}.get(mode, "PNG")
    image = read_image_file(file(PICTURE.convert(mode), kind))
    assert image.mode == ("RGBA" if mode in ("LA", "RGBA") else "RGB")
    expected = np.asarray(PICTURE.convert(mode).convert("RGB")).astype(int)
    assert np.abs(np.asarray(image.convert("RGB")) - expected).max() <= 1


@pytest.mark.parametrize("name", ["ztxt_2mib.png", "bad_exif.png", "picture.png"])
def test_metadata_never_count_against_the_pixels(data_dir: Path, name: str, recwarn: pytest.WarningsRecorder) -> None:
    """Large texts and broken EXIF data (ComfyUI issue 3316, Pillow issue 8363)."""
    with Image.open(data_dir / "cases/picture.png") as plain:
        assert read_image_file((data_dir / "cases" / name).read_bytes()).tobytes() == plain.convert("RGB").tobytes()
    assert list(recwarn) == []


def chunk(kind: bytes, content: bytes, checksum: int | None = None) -> bytes:
    crc = zlib.crc32(kind + content) if checksum is None else checksum
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


@pytest.mark.parametrize(
    "metadata",
    [
        chunk(b"tEXt", b"workflow\0" + b"{}" * 2**20),
        chunk(b"zTXt", b"workflow\0\0" + zlib.compress(bytes(2**24))),
        chunk(b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(bytes(2**24))),
        chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(2**22))),
        chunk(b"iCCP", b"profile\0\0 not compressed"),
        chunk(b"tEXt", b"no separator", checksum=0),
        chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff"),
        chunk(b"eXIf", b"MM\0*", checksum=0),
        chunk(b"pHYs", b"abc"),
        chunk(b"gAMA", b""),
        chunk(b"cHRM", b"ab"),
        chunk(b"acTL", b"a"),
        chunk(b"tIME", bytes(7), checksum=0),
        chunk(b"abCd", b"private", checksum=0),
        chunk(b"abCd", b"") * 50_000,
    ],
)
def test_any_metadata_of_a_png(metadata: bytes) -> None:
    whole = png(PICTURE)
    end_of_header = 8 + 25
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = read_image_file(whole[:end_of_header] + metadata + whole[end_of_header:])
    assert image.tobytes() == PICTURE.tobytes()


def test_a_jpeg_with_broken_exif_data_in_several_threads(recwarn: pytest.WarningsRecorder) -> None:
    data = file(PICTURE, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\x7f\xff\x01\x12\0\x03")
    read_image_file(data)
    assert "Corrupt EXIF data" in str(recwarn.pop().message)
    recwarn.clear()
    logs.ignore_warnings_about_files()
    with ThreadPoolExecutor(4) as pool:
        assert {image.size for image in pool.map(read_image_file, [data] * 400)} == {PICTURE.size}
    assert list(recwarn) == []


def test_photographs_are_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    tall = Image.new("RGB", (60, 30), "white")
    assert read_image_file(file(tall, "JPEG", exif=exif)).size == (30, 60)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_formats(kind: str) -> None:
    flat = Image.new("RGB", (64, 64), (200, 40, 40))
    assert np.abs(np.asarray(read_image_file(file(flat, kind))).astype(int) - (200, 40, 40)).max() <= 5


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "AVIF", "TIFF"])
def test_the_first_frame_of_an_animation_counts(kind: str) -> None:
    frames = [Image.new("RGB", (64, 64), color) for color in ("red", "lime")]
    image = read_image_file(file(frames[0], kind, save_all=True, append_images=frames[1:]))
    red, green, _ = np.asarray(image).reshape(-1, 3).mean(0)
    assert red > 240 > 20 > green


def test_a_png_with_transparent_colour_has_transparency() -> None:
    info = PngImagePlugin.PngInfo()
    image = Image.new("RGB", (4, 4), (1, 2, 3))
    assert read_image_file(file(image, "PNG", transparency=(1, 2, 3), pnginfo=info)).mode == "RGBA"


@pytest.mark.parametrize("step", [1, 257])
def test_a_grey_png_with_a_transparent_level_has_transparency(step: int) -> None:
    grey = RAMP.astype(np.uint16) * 257 if step == 257 else RAMP
    image = read_image_file(file(Image.fromarray(grey), "PNG", transparency=4 * step))
    pixels = np.asarray(image)
    assert image.mode == "RGBA"
    assert (pixels[:, :, 0] == RAMP).all()
    assert (pixels[:, :, 3] == np.where(RAMP == 4, 0, 255)).all()


@pytest.mark.parametrize("level", [0, 255])
def test_a_png_of_16_bits_with_a_transparent_colour_has_transparency(level: int) -> None:
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    pixels = struct.pack(">x3H3H", *[level * 257] * 3, 1, 30000, 65535)
    chunks = {b"IHDR": header, b"tRNS": pixels[1:7], b"IDAT": zlib.compress(pixels), b"IEND": b""}
    image = read_image_file(png(PICTURE)[:8] + b"".join(chunk(*item) for item in chunks.items()))
    assert (image.mode, image.getchannel("A").tobytes()) == ("RGBA", b"\0\xff")


HUGE = chunk(b"IHDR", struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0))


FLOATING_COLOURS = file(PICTURE, "TIFF", tiffinfo={TiffImagePlugin.SAMPLEFORMAT: (3, 3, 3)})


def test_a_png_of_many_chunks_is_refused_at_once() -> None:
    start = time.monotonic()
    for kind in (b"abCd", b"IDAT"):
        with pytest.raises(ValueError, match="a PNG file of more than 100000 chunks"):
            read_image_file(png(PICTURE)[:33] + chunk(kind, b"") * 1_000_000)
    assert time.monotonic() - start < 2


@pytest.mark.slow
def test_the_memory_for_reading_is_bounded() -> None:
    """A small file of the largest size that is allowed, in the modes that take most."""
    side = 4096
    for image in (Image.new("I;16", (side, side)), Image.new("F", (side, side))):
        data = file(image, "TIFF", compression="tiff_lzw")
        tracemalloc.start()
        read_image_file(data)
        assert tracemalloc.get_traced_memory()[1] < 9 * side * side
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "an empty file"),
        (b"GIF89a", "not an image file that can be read"),
        (b"II*\0" + bytes(20), "not an image file that can be read"),
        (
            FLOATING_COLOURS,
            "a TIFF file of unsupported pixels, such as floating-point colours or 64 bits: save it with",
        ),
        (png(PICTURE)[:-200], "not an image file that can be read"),
        (png(PICTURE)[:8] + HUGE + chunk(b"IDAT", b""), "too large, at most 67108864 pixels"),
    ],
)
def test_what_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_image_file(data)


def test_base64_in_every_dialect() -> None:
    data = bytes(range(251))
    plain = base64.b64encode(data).decode()
    for text in (plain, base64.urlsafe_b64encode(data).decode(), plain.rstrip("="), base64.encodebytes(data).decode()):
        assert decode_base64(text) == data
        assert decode_base64(f" {text}\r\n") == data
        assert decode_base64(text.replace("+", "%2B").replace("/", "%2F")) == data
    for text in ("!", "a", plain + "=a", "é"):
        with pytest.raises(ValueError, match="not valid base64"):
            decode_base64(text)
