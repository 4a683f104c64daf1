"""The one reader of pictures: every common form gives the picture that was saved."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from cl_kernel.contract.errors import BadInput
from cl_kernel.library.pictures import is_picture, read_picture

Image = pytest.importorskip("PIL.Image")
RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (7, 5, 3), np.uint8)
GREY = RNG.integers(0, 256, (7, 5), np.uint8)


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def stacked(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, 2)


@pytest.mark.parametrize(("form", "options"), [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("WEBP", {"lossless": True})])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_files_without_loss_give_the_pixels_saved(form, options, mode):
    pixels = COLOUR if mode == "RGB" else GREY
    found = read_picture(saved(Image.fromarray(pixels), form, **options))
    assert found.dtype == np.uint8 and np.array_equal(found, pixels if mode == "RGB" else stacked(pixels))


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_and_not_clipped(form):
    deep = GREY.astype(np.uint16) * 257
    assert np.array_equal(read_picture(saved(Image.fromarray(deep), form)), stacked(GREY))
    nearly = np.clip(deep.astype(int) + 100, 0, 65535).astype(np.uint16)
    assert np.array_equal(read_picture(saved(Image.fromarray(nearly), form), grey=True), GREY)


def test_sixteen_bit_portable_grey_maps_are_scaled():
    header = b"P5 5 7 65535\n"
    assert np.array_equal(read_picture(header + (GREY.astype(">u2") * 257).tobytes(), grey=True), GREY)


def test_palettes_alpha_and_one_bit_become_rgb():
    few = (COLOUR // 128) * 255
    palette = Image.fromarray(few).quantize(8)
    assert np.array_equal(read_picture(saved(palette, "PNG")), few)
    assert np.array_equal(read_picture(saved(palette, "PNG", transparency=0)), few)
    alpha = np.full((7, 5, 1), 255, np.uint8)
    alpha[0] = 0
    assert np.array_equal(read_picture(saved(Image.fromarray(np.dstack([COLOUR, alpha])), "PNG")), COLOUR)
    grey_alpha = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(alpha[..., 0])])
    assert np.array_equal(read_picture(saved(grey_alpha, "PNG")), stacked(GREY))
    bits = Image.fromarray(GREY > 127)
    assert np.array_equal(read_picture(saved(bits, "PNG")), stacked(np.where(GREY > 127, 255, 0).astype(np.uint8)))


def test_cmyk_becomes_rgb_within_what_jpeg_loses():
    smooth = np.repeat(np.repeat(COLOUR[:1, :2], 32, 0), 16, 1)
    image = Image.fromarray(smooth).convert("CMYK")
    found = read_picture(saved(image, "JPEG", quality=100, subsampling=0))
    assert np.abs(found.astype(int) - smooth).max() <= 6


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_cameras_orientation_is_applied(turn):
    shown = Image.fromarray(COLOUR)
    T = Image.Transpose
    back = {
        2: T.FLIP_LEFT_RIGHT,
        3: T.ROTATE_180,
        4: T.FLIP_TOP_BOTTOM,
        5: T.TRANSPOSE,
        6: T.ROTATE_90,
        7: T.TRANSVERSE,
        8: T.ROTATE_270,
    }
    stored = shown.transpose(back[turn]) if turn in back else shown
    exif = Image.Exif()
    exif[0x0112] = turn
    assert np.array_equal(read_picture(saved(stored, "PNG", exif=exif)), COLOUR)


def test_names_with_spaces_and_capitals_are_read_and_what_is_no_picture_is_named(tmp_path: Path):
    path = tmp_path / "a b.PNG"
    Image.fromarray(COLOUR).save(path)
    assert is_picture(path) and not is_picture(tmp_path / "a.txt") and np.array_equal(read_picture(path), COLOUR)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(BadInput, match=r"a b\.PNG"):
        read_picture(path)
    with pytest.raises(BadInput, match="no such file"):
        read_picture(tmp_path / "absent.png")
    with pytest.raises(BadInput, match=r"row 3"):
        read_picture(b"", name="row 3")
    Image.fromarray(GREY.astype(np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(BadInput, match=r"f\.tif"):
        read_picture(tmp_path / "f.tif")
