"""Reading image files: whatever is on disk comes out as RGB uint8, or as one clear error."""

import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.errors import UserError

#: Pillow's names of the formats that are read. Not all that it knows: for EPS it starts Ghostscript.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF")
#: What Pillow's plugins raise on broken files.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, RuntimeError, struct.error,
           Image.DecompressionBombError)
_ORIENTATION = 0x0112
#: Its values that swap width and height, and those that turn or mirror a picture of any shape in place.
_QUARTERS, _IN_PLACE = (5, 6, 7, 8), (2, 3, 4)


class BadFile(UserError):
    """A file that a person must repair or leave out.

    Attributes:
        file: its path.
        message: what is wrong with it, without the path.
    """

    def __init__(self, file: str | Path, message: str = "") -> None:
        super().__init__(str(file), message)
        self.file, self.message = str(file), message

    def __str__(self) -> str:
        # torch's workers rebuild an exception from its text alone
        return f"{self.file}: {self.message}" if self.message else self.file


def read_image(path: str | Path, size_hw: tuple[int, int] | None = None, *, upright: bool = False) -> NDArray[np.uint8]:
    """Decodes an image file.

    Args:
        path: a file of one of `FORMATS`, whatever its name ends in; grey, palette, CMYK, 16 bit and transparent
            ones become RGB. Grey of 32 bits or of floats says nowhere what is white, and is refused.
        size_hw: (height, width) of the annotation. Of the stored pixels and the picture upright by its
            EXIF orientation, what has it is taken. None: either.
        upright: which of the two is taken where both may be.

    Returns:
        (H, W, 3) uint8 RGB, contiguous and writable.

    Raises:
        BadFile: the file is missing, empty, truncated, no image of these formats, of another size, or grey without a
            range.
    """
    path = Path(path)
    try:
        with Image.open(path, formats=FORMATS) as image:
            image.load()
            for turn in (upright, not upright):
                picture = _turned(image) if turn else image
                if size_hw is None or picture.size == size_hw[::-1]:
                    return _rgb(picture)
            assert size_hw is not None
            raise BadFile(path, f"the image has {image.width}x{image.height} pixels, "
                                f"its annotation says {size_hw[1]}x{size_hw[0]}")
    except FileNotFoundError:
        raise BadFile(path, "the image does not exist") from None
    except BadFile:
        raise
    except _BROKEN as error:
        raise _unreadable(path, error) from None


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) of an image file as a viewer shows it, upright by its EXIF orientation; reads the header alone.

    Raises:
        BadFile: the file is empty or no image.
    """
    width, height, orientation = _header(path)
    return (height, width) if orientation in _QUARTERS else (width, height)


def turned_in_place(path: Path) -> bool:
    """Whether EXIF turns or mirrors an image and leaves its size, which then does not say what was annotated.

    Raises:
        BadFile: the file is empty or no image.
    """
    width, height, orientation = _header(path)
    return orientation in _IN_PLACE or (orientation in _QUARTERS and width == height)


def _header(path: Path) -> tuple[int, int, int]:
    """Width and height of the stored pixels, and the EXIF orientation."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height, about = *image.size, image.info.get("exif", b"")
    except _BROKEN as error:
        raise _unreadable(path, error) from None
    exif = Image.Exif()  # not image.getexif(), which decodes all of a PNG
    with suppress(*_BROKEN):  # nonsense there spoils no picture
        exif.load(about)
    return width, height, exif.get(_ORIENTATION, 1)


def _turned(image: Image.Image) -> Image.Image:
    """The picture as a viewer shows it."""
    with suppress(*_BROKEN):
        return ImageOps.exif_transpose(image)
    return image


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    # 16 bit grey, to which Pillow scales a PGM: its own conversion would clip at 255
    if image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PPM"):
        grey: NDArray[Any] = np.asarray(image, dtype=np.float64)
        plane = np.clip(grey / 257 + 0.5, 0, 255).astype(np.uint8)
        return np.repeat(plane[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise ValueError("its grey values are of 32 bits, of which nobody says what is white: convert it to 8 bits")
    if image.mode == "P":  # by way of RGBA: its transparency has no RGB meaning
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"), dtype=np.uint8)


def _unreadable(path: Path, error: Exception) -> BadFile:
    empty = path.is_file() and path.stat().st_size == 0
    reason = "it is empty" if empty else (str(error).splitlines() or [type(error).__name__])[0]
    if isinstance(error, UnidentifiedImageError) and not empty:
        reason = f"it is damaged, or none of {', '.join(FORMATS)}"
    return BadFile(path, f"the image cannot be read: {reason}")
