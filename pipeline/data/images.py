"""Reading image files: whatever is on disk comes out as RGB uint8, or as one clear error."""

import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pipeline.errors import UserError

#: What Pillow's plugins raise on broken files.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, RuntimeError, struct.error,
           Image.DecompressionBombError)
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)  # EXIF: turned by a quarter


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


def read_image(path: str | Path, size_hw: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Decodes an image file.

    Args:
        path: a file of any format that Pillow knows; grey, palette, CMYK, 16 bit and transparent
            ones become RGB. Grey of 32 bits or of floats says nowhere what is white, and is refused.
        size_hw: (height, width) of the annotation. Where the stored pixels have it, they are
            taken as they are, whatever EXIF says; where only the picture rotated by its EXIF
            orientation has it, it is rotated. None takes the stored pixels.

    Returns:
        (H, W, 3) uint8 RGB, contiguous and writable.

    Raises:
        BadFile: the file is missing, empty, truncated, no image, of another size, or grey without a range.
    """
    path = Path(path)
    try:
        with Image.open(path) as image:
            image.load()
            if size_hw is None or image.size == size_hw[::-1]:
                return _rgb(image)
            rotated = ImageOps.exif_transpose(image)
            if rotated.size == size_hw[::-1]:
                return _rgb(rotated)
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
    try:
        with Image.open(path) as image:
            width, height, about = *image.size, image.info.get("exif", b"")
    except _BROKEN as error:
        raise _unreadable(path, error) from None
    exif = Image.Exif()  # not image.getexif(), which decodes all of a PNG
    with suppress(*_BROKEN):  # nonsense there spoils no picture
        exif.load(about)
    return (height, width) if exif.get(_ORIENTATION) in _TURNED else (width, height)


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
    return BadFile(path, f"the image cannot be read: {reason}")
