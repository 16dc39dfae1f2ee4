"""Image files of every kind come out as RGB, broken ones as one line."""

import pickle
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from pipeline.data.images import BadFile, image_size, read_image, turned_in_place


@pytest.fixture
def picture() -> Image.Image:
    """A smooth picture, 40 wide and 30 high, so that JPEG keeps it."""
    y, x = np.mgrid[:30, :40]
    return Image.fromarray(np.stack([x * 6, y * 8, 255 - x * 3 - y * 3], 2).astype(np.uint8))


def close(pixels: np.ndarray, picture: Image.Image, tolerance: float = 8) -> bool:
    return bool(np.abs(pixels.astype(int) - np.asarray(picture.convert("RGB"), dtype=int)).mean() < tolerance)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".jpg", ".tif"])
def test_formats(tmp_path: Path, picture: Image.Image, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    picture.save(path)
    pixels = read_image(path, (30, 40))
    assert pixels.shape == (30, 40, 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags.writeable
    assert pixels.flags.c_contiguous
    assert close(pixels, picture)


@pytest.mark.parametrize(("mode", "suffix"), [
    ("L", ".jpg"), ("CMYK", ".jpg"), ("P", ".png"), ("RGBA", ".png"), ("1", ".png"), ("LA", ".png")])
def test_modes_become_rgb(tmp_path: Path, picture: Image.Image, mode: str, suffix: str) -> None:
    converted = picture.convert(mode)
    path = tmp_path / f"a{suffix}"
    converted.save(path)
    assert close(read_image(path), converted)


def test_palette_with_transparent_entries_gives_no_warning(tmp_path: Path, picture: Image.Image) -> None:
    path = tmp_path / "a.png"
    picture.quantize(16).save(path, transparency=bytes([0, 128] + [255] * 14))
    assert close(read_image(path), picture, 30)


def test_16_bit_grey_keeps_its_range(tmp_path: Path) -> None:
    values = np.array([[0, 257, 32768, 65535]], np.uint16)
    path = tmp_path / "a.png"
    Image.fromarray(values).save(path)
    assert read_image(path)[0, :, 1].tolist() == [0, 1, 128, 255]


def test_a_pgm_is_scaled_to_16_bits_by_pillow(tmp_path: Path) -> None:
    path = tmp_path / "a.pgm"
    path.write_bytes(b"P5 3 1 4095\n" + np.array([0, 2048, 4095], ">u2").tobytes())
    assert read_image(path)[0, :, 1].tolist() == [0, 128, 255]


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_grey_without_a_range_is_refused(tmp_path: Path, kind: type) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(np.array([[0, 1, 200, 4000]], kind)).save(path)  # 200 and 4000 may be white, or neither
    with pytest.raises(BadFile, match=r"a\.tif: .* 32 bits, .* convert it to 8 bits"):
        read_image(path)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_exif_rotates_only_where_the_annotated_size_says_so(
        tmp_path: Path, picture: Image.Image, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.png"
    picture.save(path, exif=exif)
    stored = np.asarray(picture)
    assert (read_image(path) == stored).all()
    assert (read_image(path, (30, 40)) == stored).all()
    rotated = read_image(path, (40, 30))
    assert rotated.shape == (40, 30, 3)
    upright = {5: stored.transpose(1, 0, 2), 6: np.rot90(stored, -1), 8: np.rot90(stored),
               7: np.rot90(stored, 2).transpose(1, 0, 2)}[orientation]
    assert (rotated == upright).all()


def turned(picture: Image.Image, path: Path, orientation: int) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(path, exif=exif)
    return path


@pytest.mark.parametrize("upright", [False, True])
def test_where_size_cannot_decide_upright_does(tmp_path: Path, picture: Image.Image, upright: bool) -> None:
    path, square = turned(picture, tmp_path / "a.png", 3), picture.crop((0, 0, 30, 30))
    expected = np.rot90(picture, 2 if upright else 0)
    assert (read_image(path, (30, 40), upright=upright) == expected).all()
    assert (read_image(path, upright=upright) == expected).all()
    quarter = read_image(turned(square, tmp_path / "b.png", 6), (30, 30), upright=upright)
    assert (quarter == np.rot90(square, -1 if upright else 0)).all()
    for size, turns in (((30, 40), 0), ((40, 30), -1)):
        quarter = read_image(turned(picture, tmp_path / "c.png", 6), size, upright=upright)
        assert (quarter == np.rot90(picture, turns)).all()


def test_turned_in_place(tmp_path: Path, picture: Image.Image) -> None:
    found = [turned_in_place(turned(picture, tmp_path / "a.png", orientation)) for orientation in range(1, 9)]
    assert found == [False, True, True, True, False, False, False, False]
    square = picture.crop((0, 0, 30, 30))
    assert all(turned_in_place(turned(square, tmp_path / "a.png", orientation)) for orientation in range(2, 9))


def test_another_size_is_refused(tmp_path: Path, picture: Image.Image) -> None:
    picture.save(tmp_path / "a.png")
    with pytest.raises(BadFile, match=r"a\.png: the image has 40x30 pixels, its annotation says 41x30"):
        read_image(tmp_path / "a.png", (30, 41))


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_broken_files_are_named(tmp_path: Path, picture: Image.Image, suffix: str) -> None:
    whole = tmp_path / f"whole{suffix}"
    picture.save(whole)
    content = whole.read_bytes()
    for name, data, reason in [("empty", b"", "it is empty"), ("noise", b"\0" * 100, "it is damaged, or none of JPEG"),
                               ("half", content[:len(content) // 2], ""), ("text", b"<html></html>", "")]:
        path = tmp_path / f"{name}{suffix}"
        path.write_bytes(data)
        with pytest.raises(BadFile) as caught:
            read_image(path, (30, 40))
        assert str(caught.value).startswith(f"{path}: the image cannot be read: {reason}")
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_every_damage_to_an_avif_is_a_bad_file_or_gives_a_picture(tmp_path: Path, picture: Image.Image) -> None:
    path = tmp_path / "a.avif"
    picture.save(path)
    content = path.read_bytes()
    for length in range(0, len(content), 3):
        path.write_bytes(content[:length] + bytes(len(content) - length))
        with suppress(BadFile):
            read_image(path, (30, 40))


def test_every_truncation_is_an_error_or_the_whole_picture(tmp_path: Path, picture: Image.Image) -> None:
    path = tmp_path / "a.jpg"
    picture.save(path)
    content, pixels = path.read_bytes(), read_image(path)
    for length in range(0, len(content) - 2, 7):
        path.write_bytes(content[:length])
        try:
            assert (read_image(path) == pixels).all()
        except BadFile:
            continue


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"none\.jpg: the image does not exist"):
        read_image(tmp_path / "none.jpg")
    with pytest.raises(BadFile, match="cannot be read"):
        read_image(tmp_path)


def test_postscript_is_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran, ghostscript, path = tmp_path / "ran", tmp_path / "gs", tmp_path / "a.jpg"
    ghostscript.write_text(f"#!/bin/sh\ntouch {ran}\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 30\n%%EndComments\nshowpage\n%%EOF\n")
    for read in (read_image, image_size):
        with pytest.raises(BadFile, match=r"a\.jpg: the image cannot be read: it is damaged, or none of JPEG, PNG, "):
            read(path)
    assert not ran.exists()


def test_the_error_survives_other_processes() -> None:
    error = BadFile("a.jpg", "it is empty")
    assert str(pickle.loads(pickle.dumps(error))) == str(error) == "a.jpg: it is empty"
    assert str(BadFile(str(error))) == str(error)  # as torch rebuilds it in the main process
