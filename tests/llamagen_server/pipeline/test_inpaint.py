"""Images and masks of edits: reading, token masks, blending."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from tests.helpers.image_files import png

from llamagen_server.core.errors import InvalidRequestError
from llamagen_server.image_files.geometry import center_crop
from llamagen_server.image_files.reading import read_image_file
from llamagen_server.pipeline.inpaint import Inpainting, read_inpainting

SIDE, GRID = 64, 8


def noise(width: int = SIDE, height: int = SIDE) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


def mask_file(mask: np.ndarray) -> bytes:
    """A mask file whose alpha is 0 where ``mask`` is True."""
    image = Image.new("RGBA", mask.shape[::-1])
    image.putalpha(Image.fromarray(~mask).convert("L"))
    return png(image)


def inpainting_of(image: bytes, mask: bytes | None, keep_rows: int | None = None, feather: int = 0) -> Inpainting:
    """Reads an edit that keeps something."""
    inpainting = read_inpainting(image, mask, keep_rows, feather, SIDE, GRID)
    assert inpainting is not None
    return inpainting


masks = st.builds(
    lambda seed, share: np.random.default_rng(seed).random((SIDE, SIDE)) < share,
    st.integers(0, 999),
    st.floats(0.01, 0.99),
)


@given(masks, st.integers(0, 20))
def test_only_masked_pixels_change_and_all_their_tokens_are_masked(mask: np.ndarray, feather: int) -> None:
    inpainting = inpainting_of(png(noise()), mask_file(mask), feather=feather)
    assert (inpainting.mask == mask).all()
    generated = 255 - inpainting.pixels
    composed = inpainting.compose(generated)
    assert (composed[~mask] == np.asarray(noise())[~mask]).all()
    if not feather:
        assert (composed[mask] == generated[mask]).all()
    tokens = np.array(inpainting.token_mask([7] * 64, GRID).masked).reshape(GRID, GRID)
    assert (tokens.repeat(8, 0).repeat(8, 1) >= mask).all()
    assert tokens.sum() == len({(y // 8, x // 8) for y, x in np.argwhere(mask)})


def test_a_feathered_seam_fades_inwards() -> None:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[:, 20:] = True
    inpainting = Inpainting(np.zeros((SIDE, SIDE, 3), np.uint8), mask, feather=8)
    row = inpainting.compose(np.full((SIDE, SIDE, 3), 200, np.uint8))[32, :, 0].astype(int)
    assert (row[:20] == 0).all()
    assert 0 < row[21] < row[23] < row[26] < 200
    assert (row[36:60] == 200).all()


@pytest.mark.parametrize("feather", [1, 8, 256])
def test_feathering_never_undoes_the_edit(feather: int) -> None:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[10:21, 30:41] = True
    mask[0:3] = True
    inpainting = Inpainting(np.zeros((SIDE, SIDE, 3), np.uint8), mask, feather)
    composed = inpainting.compose(np.full((SIDE, SIDE, 3), 200, np.uint8))[:, :, 0]
    assert composed[15, 35] >= 170
    assert composed[1, 30] >= 100  # a thin line next to a thick region
    assert (composed[mask] > 0).all()
    assert (
        Inpainting(inpainting.pixels, ~np.zeros_like(mask), feather).compose(np.full_like(inpainting.pixels, 9)) == 9
    ).all()


@pytest.mark.parametrize("keep_rows", [1, 3, 7])
def test_keep_rows(keep_rows: int) -> None:
    inpainting = inpainting_of(png(noise()), None, keep_rows)
    token_mask = inpainting.token_mask(list(range(64)), GRID)
    assert len(token_mask.prefix_tokens) == keep_rows * GRID == token_mask.masked.count(False)


def test_the_transparent_part_of_the_image_itself_is_masked() -> None:
    image = noise().convert("RGBA")
    image.paste((0, 0, 0, 0), (0, 32, 64, 64))
    inpainting = inpainting_of(png(image), None)
    assert inpainting.mask[32:].all()
    assert not inpainting.mask[:32].any()


def test_image_and_mask_of_another_size_are_cropped_alike() -> None:
    mask = np.zeros((150, 300), bool)
    mask[75:] = True
    inpainting = inpainting_of(png(noise(300, 150)), mask_file(mask))
    assert inpainting.pixels.shape == (SIDE, SIDE, 3)
    assert inpainting.mask.mean() == pytest.approx(0.5, abs=0.02)
    assert inpainting.mask[40:].all()


@given(st.integers(64, 700), st.integers(64, 700), st.integers(0, 9999))
def test_a_mask_is_cropped_as_its_image(width: int, height: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = np.zeros((height, width), bool)
    x, y, size = rng.integers(0, width), rng.integers(0, height), max(width, height) // 4
    mask[y : y + size, x : x + size] = True
    image = Image.fromarray(np.where(mask[:, :, None], np.uint8([255, 0, 0]), np.uint8([0, 0, 255])))
    assume((np.asarray(center_crop(image, SIDE))[:, :, 0] > 140).any())
    inpainting = inpainting_of(png(image), mask_file(mask))
    red = inpainting.pixels[:, :, 0] > 140
    assert (inpainting.mask >= red).all()
    assert (inpainting.mask & ~red).sum() <= 4 * 4 * SIDE  # beyond it, only the seam is masked


@given(st.integers(0, 639), st.integers(0, 639))
def test_a_single_masked_pixel_of_a_large_image_counts(x: int, y: int) -> None:
    mask = np.zeros((640, 640), bool)
    mask[y, x] = True
    inpainting = inpainting_of(png(noise(640, 640)), mask_file(mask))
    assert np.argwhere(inpainting.mask).tolist() == [[y // 10, x // 10]]


def test_bad_files() -> None:
    image, half = png(noise()), mask_file(np.zeros((32, 32), bool))
    bad: dict[str, tuple[bytes, bytes | None, int | None]] = {
        "image is not an image file that can be read": (b"hello", None, 1),
        "mask is an empty file": (image, b"", None),
        "mask is 32x32, must be 64x64 like the image": (image, half, None),
        "nothing is masked: the mask has no transparent pixel, and is not black and white; make": (image, image, None),
        "nothing is masked: mask and keep_rows are missing, and the image has no transparent": (image, None, None),
        "mask and keep_rows are both given: give one": (image, half, 3),
        "^keep_rows is -1, must be 0 to 7$": (image, None, -1),
        "^nothing is masked: keep_rows is 8, must be 0 to 7; keep fewer rows, or send a mask in .*: make the": (
            image,
            None,
            8,
        ),
    }
    for message, (file, mask, keep_rows) in bad.items():
        with pytest.raises(InvalidRequestError, match=message):
            read_inpainting(file, mask, keep_rows, 0, SIDE, GRID)


def case(data_dir: Path, name: str) -> bytes:
    return (data_dir / "cases" / name).read_bytes()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_white_is_redrawn_where_a_mask_has_no_transparency(mode: str) -> None:
    mask = Image.new("L", (SIDE, SIDE), 0)
    mask.paste(255, (0, 32, SIDE, SIDE))
    inpainting = inpainting_of(png(noise()), png(mask.convert(mode)))
    assert (inpainting.mask == (np.asarray(mask) == 255)).all()


def test_an_opaque_mask_in_black_and_white(data_dir: Path) -> None:
    """AUTOMATIC1111 issues 414 and 12898."""
    file = case(data_dir, "mask_bw_opaque_rgba.png")
    white = np.asarray(read_image_file(file).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)) > 0
    assert (inpainting_of(case(data_dir, "picture.png"), file).mask == white).all()


def test_soft_edges_and_jpeg_artefacts_keep_a_mask_black_and_white() -> None:
    mask = Image.new("L", (SIDE, SIDE), 0)
    mask.paste(255, (16, 16, 48, 48))
    for soft in (mask.filter(ImageFilter.GaussianBlur(1)), Image.open(io.BytesIO(jpeg(mask)))):
        inpainting = inpainting_of(png(noise()), png(soft))
        assert (inpainting.mask == (np.asarray(soft) >= 128)).all()


def jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "jpeg", quality=75)
    return file.getvalue()


def test_alpha_below_128_is_masked() -> None:
    """AUTOMATIC1111 issue 10644."""
    mask = Image.new("RGBA", (SIDE, SIDE), (255, 255, 255, 255))
    for row, alpha in enumerate((0, 1, 127, 128, 254)):
        mask.paste((255, 255, 255, alpha), (0, 8 * row, SIDE, 8 * row + 8))
    masked = inpainting_of(png(noise()), png(mask)).mask
    assert masked[:24].all()
    assert not masked[24:].any()


@pytest.mark.parametrize(
    ("image", "mask", "message"),
    [
        ("picture.png", "mask_brush_half_opaque.png", "no pixel of the mask is transparent, the lowest alpha is 128"),
        ("picture.png", "picture_rgba_opaque.png", "has no transparent pixel, and is not black and white"),
        ("picture.png", "picture.png", "has no transparent pixel, and is not black and white"),
        ("picture.png", "grey16.png", "has no transparent pixel, and is not black and white"),
        ("picture_rgba_opaque.png", None, "mask and keep_rows are missing, and the image has no transparent pixel"),
        ("picture.png", None, "mask and keep_rows are missing, and the image has no transparent pixel"),
    ],
)
def test_an_edit_that_masks_nothing_is_refused(data_dir: Path, image: str, mask: str | None, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"nothing is masked: .*{message}; make the pixels to inpaint transp"):
        inpainting_of(case(data_dir, image), mask and case(data_dir, mask))


def test_a_black_mask_is_refused_and_a_white_one_redraws_everything() -> None:
    with pytest.raises(InvalidRequestError, match="no pixel of the mask is transparent or white"):
        inpainting_of(png(noise()), png(Image.new("RGB", (SIDE, SIDE), "black")))
    assert read_inpainting(png(noise()), png(Image.new("L", (SIDE, SIDE), "white")), None, 0, SIDE, GRID) is None


def test_a_mask_outside_the_crop_is_refused() -> None:
    mask = np.zeros((SIDE, 4 * SIDE), bool)
    mask[:, :SIDE] = True
    with pytest.raises(InvalidRequestError, match="all outside the square to which the image is cropped"):
        inpainting_of(png(noise(4 * SIDE, SIDE)), mask_file(mask))


def test_without_a_mask_the_whole_image_may_be_redrawn(data_dir: Path) -> None:
    for name in ("picture.png", "picture_rgba_opaque.png", "grey16.png"):
        assert read_inpainting(case(data_dir, name), None, None, 0, SIDE, GRID, "whole") is None
    half = noise().convert("RGBA")
    half.paste((0, 0, 0, 0), (0, 32, 64, 64))
    inpainting = read_inpainting(png(half), None, None, 0, SIDE, GRID, "whole")
    assert inpainting is not None
    assert inpainting.mask.mean() == 0.5
    with pytest.raises(InvalidRequestError, match="is not black and white"):  # a mask that is given must mask something
        read_inpainting(png(noise()), png(noise()), None, 0, SIDE, GRID, "whole")


@given(st.binary(max_size=200), st.integers(0, 400))
def test_damaged_files_are_refused_or_read(data: bytes, cut: int) -> None:
    whole = png(noise())
    for file in (data, whole[:cut] + data, whole[:cut] + data + whole[cut + len(data) :]):
        with contextlib.suppress(ValueError):
            assert read_image_file(file).size


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 130))
def test_any_size_is_cropped_to_the_wanted_one(width: int, height: int, side: int) -> None:
    if max(width, height) <= 16 * min(width, height):
        assert center_crop(Image.new("RGB", (width, height)), side).size == (side, side)


def test_too_narrow_and_too_large_images() -> None:
    with pytest.raises(ValueError, match="1x100, one side may be at most 16 times the other"):
        read_image_file(png(Image.new("RGB", (1, 100))))
    with pytest.raises(ValueError, match="9000x9000, at most 67108864 pixels are allowed"):
        read_image_file(png(Image.new("1", (9000, 9000))))
