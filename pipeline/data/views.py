"""A view of an image: where its pixels go and how its colours change, as plain numbers.

Coordinates are continuous pixel edges: an image of width w spans [0, w], its first pixel's centre
is at 0.5.
"""

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from pipeline.data.dataset import ImageRecord
    from pipeline.params import Views

Image = npt.NDArray[np.uint8]
Matrix = npt.NDArray[np.float64]

# Images are small and loaders are many; OpenCV's own threads also survive no fork.
cv2.setNumThreads(0)

#: Share of the pixel, of its grey and of the image's mean grey, then what is added to R, G, B (in 1/255).
IDENTITY_COLOR = np.array([1, 0, 0, 0, 0, 0], np.float32)
_GREY = np.array([0.299, 0.587, 0.114], np.float32)
# Principal components of COCO's colours; rows are R, G, B. Reference: the official CenterNet code.
_PCA = np.array([
    [-0.56089297, 0.71832671, 0.41158938],
    [-0.58327470, 0.00994535, -0.81221408],
    [-0.58752847, -0.69563484, 0.41340352],
]) * [0.21417880, 0.01817699, 0.00341571]
_CROP_BORDER = 128


class View(NamedTuple):
    """An image seen in one resolved way; rendering it needs no random generator.

    Attributes:
        image: row of the image in its split.
        number: which view of the image; 0 is the plain one.
        matrix: (2, 3) float64, source pixels to input pixels, the flip included.
        flip: whether it is mirrored.
        color: (6,) float32; see `IDENTITY_COLOR`.
    """

    image: int
    number: int
    matrix: Matrix
    flip: bool
    color: npt.NDArray[np.float32]


def plain_view(record: "ImageRecord", size_hw: tuple[int, int], image: int = 0) -> View:
    """The view that fits a whole image, centred, into the input; `image` is its row in the split, passed on."""
    width, height = record.width, record.height
    matrix = _fit(width, height, size_hw, scale=1.0, centre=(width / 2, height / 2), flip=False)
    return View(image, 0, matrix, False, IDENTITY_COLOR)


def invert(matrix: Matrix) -> Matrix:
    """The (2, 3) matrix of the way back."""
    linear = np.linalg.inv(matrix[:, :2])
    return np.column_stack([linear, -linear @ matrix[:, 2]])


def resolve_view(
    record: "ImageRecord", image: int, number: int, params: "Views", rng: np.random.Generator
) -> View:
    """Draws view `number` of an image; number 0 is the plain image and draws nothing.

    The draw is the official training augmentation: a scale, a crop centre that keeps away from the
    border, a flip; brightness, contrast and saturation in random order, then PCA lighting.

    Args:
        record: the image's width and height.
        image: its row in the split, passed on.
        number: 0 for the plain view.
        params: size, scale, flip, color and lighting.
        rng: consumed in a fixed order.

    Reference: Zhou et al., Objects as Points, 2019, and the official code.
    """
    if number == 0:
        return plain_view(record, params.size, image)
    width, height = record.width, record.height
    scale = rng.choice(_scales(*params.scale))
    centre = tuple(float(rng.integers(border, side - border))
                   for side in (width, height) for border in [_border(side)])
    flip = bool(rng.random() < params.flip)
    matrix = _fit(width, height, params.size, scale, (centre[0], centre[1]), flip)
    return View(image, number, matrix, flip, _draw_color(params.color, params.lighting, rng))


def render_view(image: Image, view: View, size_hw: tuple[int, int]) -> Image:
    """The pixels of a view: bilinear, black outside of the image, recoloured.

    Args:
        image: (H, W, 3) uint8 RGB, the source.
        view: its matrix and colour.
        size_hw: (h, w) of the input.

    Returns:
        (h, w, 3) uint8 RGB, contiguous.
    """
    matrix = view.matrix
    shrink = int(1 / matrix[1, 1])
    if shrink >= 2:  # bilinear sampling skips pixels then: average them first
        image, matrix = _shrink(image, shrink), matrix * [shrink, shrink, 1]
    warped = cv2.warpAffine(image, _between_pixel_centres(matrix), size_hw[::-1], flags=cv2.INTER_LINEAR)
    return _recolor(_image(warped), view.color)


def view_boxes(
    record: "ImageRecord", view: View, size_hw: tuple[int, int]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """An image's boxes as a view shows them.

    Returns:
        (n, 4) float32 xyxy in input pixels, clipped to the view, and (n,) bool: whether something
        of the box is left.
    """
    scale, shift = view.matrix[[0, 1], [0, 1]], view.matrix[:, 2]
    corners = record.boxes.reshape(-1, 2, 2).astype(np.float64) * scale + shift
    corners.sort(axis=1)  # a flip swaps left and right
    corners = corners.clip(0, size_hw[::-1])
    boxes = corners.reshape(-1, 4).astype(np.float32)
    return boxes, (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])


def _fit(
    width: int, height: int, size_hw: tuple[int, int], scale: float, centre: tuple[float, float], flip: bool
) -> Matrix:
    """Puts `centre` in the middle; at scale 1 the whole image would fit, at 2 twice as much."""
    factor = min(size_hw[1] / width, size_hw[0] / height) / scale
    x = -factor if flip else factor
    return np.array([
        [x, 0, size_hw[1] / 2 - x * centre[0]],
        [0, factor, size_hw[0] / 2 - factor * centre[1]],
    ])


def _between_pixel_centres(matrix: Matrix) -> Matrix:
    """The same map for OpenCV, where pixel i sits at i and not at i + 0.5."""
    moved = matrix.copy()
    moved[:, 2] += matrix[:, :2].sum(axis=1) * 0.5 - 0.5
    return moved


def _scales(least: float, most: float, step: float) -> npt.NDArray[np.float64]:
    """least, least + step, … below most; `least` alone where there is no range."""
    if most <= least:
        return np.array([least])
    # Rounding may put `most` itself, or what is next to it, at the end of the range.
    return np.arange(least, most, step)[: max(1, math.ceil((most - least) / step - 1e-6))]


def _border(side: int) -> int:
    """How far a crop's centre stays away from the border: 128 pixels, halved until there is room."""
    border = _CROP_BORDER
    while side <= 2 * border:
        border //= 2
    return border


def _draw_color(strength: float, lighting: float, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Brightness, contrast and saturation are linear in (pixel, grey, mean grey): so is any order of them."""
    color = IDENTITY_COLOR.copy()
    alphas = 1 + rng.uniform(-strength, strength, 3)
    for kind in rng.permutation(3):  # 0 brightness to black, 1 saturation to grey, 2 contrast to the mean
        color[:3] *= alphas[kind]
        color[kind] += (1 - alphas[kind]) * (kind != 0)
    color[3:] = _PCA @ rng.normal(0, lighting, 3)
    return color


def _shrink(image: Image, factor: int) -> Image:
    """Averages factor x factor pixels, black beyond the border; other ratios are five times slower."""
    height, width = image.shape[:2]
    padded = cv2.copyMakeBorder(image, 0, -height % factor, 0, -width % factor, cv2.BORDER_CONSTANT)
    small = padded.shape[1] // factor, padded.shape[0] // factor
    return _image(cv2.resize(padded, small, interpolation=cv2.INTER_AREA))


def _image(pixels: npt.NDArray[Any]) -> Image:
    """What OpenCV makes of uint8 is uint8; its stubs do not say so."""
    assert pixels.dtype == np.uint8
    return pixels


def _recolor(image: Image, color: npt.NDArray[np.float32]) -> Image:
    if np.array_equal(color, IDENTITY_COLOR):
        return image
    pixel, grey, mean, *_ = color
    mixing = pixel * np.eye(3, dtype=np.float32) + grey * _GREY
    added = mean * (_GREY @ np.asarray(cv2.mean(image)[:3])) + 255 * color[3:]
    return _image(cv2.transform(image, np.column_stack([mixing, added])))
