"""Rendered views as a store keeps them: as they are, or as JPEG."""

import io
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
import PIL.Image

from pipeline.data.views import Image
from pipeline.errors import UserError
from storage import ArraySpec, CorruptStore

Form = Literal["raw", "jpeg"]
Codes = npt.NDArray[np.uint8]

#: Tried in turn, until the file is no longer than the pixels.
_QUALITIES = range(95, 0, -5)


def pixel_array(form: Form, size_hw: tuple[int, int]) -> ArraySpec:
    """The array of the pixels: (h, w, 3) for raw; for jpeg the file, with zeros up to h * w * 3 bytes."""
    height, width = size_hw
    return ArraySpec("image", (height, width, 3) if form == "raw" else (height * width * 3,), "uint8")


def pack(image: Image, form: Form) -> tuple[Codes, Image]:
    """What is stored of (h, w, 3) RGB pixels, and the pixels that come out of it again.

    Raises:
        UserError: the image is so small that its JPEG never is shorter.
    """
    if form == "raw":
        return image, image
    for quality in _QUALITIES:
        settings = [cv2.IMWRITE_JPEG_QUALITY, quality,
                    cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
        _, file = cv2.imencode(".jpg", image[:, :, ::-1], settings)
        if file.size <= image.size:
            codes = np.zeros(image.size, np.uint8)
            codes[: file.size] = file.ravel()
            return codes, unpack(codes, form, image.shape[:2])
    height, width = image.shape[:2]
    raise UserError(f"views.image: jpeg is longer than the pixels of {width}x{height} views. Set it to raw or null.")


def unpack(codes: Codes, form: Form, size_hw: tuple[int, ...]) -> Image:
    """The (h, w, 3) RGB pixels, contiguous.

    Raises:
        CorruptStore: the codes are no JPEG of that size.
    """
    if form == "raw":
        return codes
    try:  # the size is looked at before memory is taken for it
        with PIL.Image.open(io.BytesIO(codes.data), formats=["JPEG"]) as file:
            size = file.size[::-1]
    except OSError:
        size = None
    pixels = cv2.imdecode(codes, cv2.IMREAD_COLOR) if size == tuple(size_hw) else None
    if pixels is None:
        raise CorruptStore(f"holds no JPEG of {size_hw[1]}x{size_hw[0]} pixels")
    return np.ascontiguousarray(pixels[:, :, ::-1])
