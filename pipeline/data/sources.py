"""What the readers of VOC and COCO have in common: their files, their answer, their problems, their boxes."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.data.dataset import ImageRecord
from pipeline.data.images import BadFile

#: A box may reach this many pixels over the border (0-based tools, rounding) and is clipped; one
#: that reaches further says that box and image do not belong together.
BORDER = 1.0
#: Boxes are kept to a thousandth of a pixel: what XML and JSON hold is then exactly what we use.
DECIMALS = 3


def files_below(folder: Path) -> list[Path]:
    """The files of a folder at any depth, by path. Links to folders are followed; no folder is entered twice."""
    entered: set[str] = set()
    files: list[Path] = []
    for root, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        # Of two paths into a folder always the same one counts: that which is no link.
        folders.sort(key=lambda name: (os.path.islink(os.path.join(root, name)), name))
        files += [path for name in names if (path := Path(root, name)).is_file()]
    return sorted(files)


def advice_on_jsons(folder: Path) -> str:
    """What data.source or data.sets would be if the json files of a folder are COCO's; "" where it has none."""
    names = sorted(str(path.relative_to(folder)) for depth in ("*.json", "*/*.json") for path in folder.glob(depth))
    names = [name for name in names if Path(name).name.startswith("instances")] or names  # not captions, not keypoints
    if len(names) < 2:
        return f"set data.source to {folder / names[0]} if that is a COCO json" if names else ""
    sets: dict[str, str] = {}
    for split in ("train", "val", "test"):
        if of_split := [name for name in names if split in name and name not in sets.values()]:
            sets[split] = of_split[0]
    if "test" not in sets and "val" in sets:  # as in COCO, whose test has no annotations
        sets["test"] = sets.pop("val")
    if "train" not in sets:
        others = [name for name in names if name not in sets.values()]
        sets = {"train": others[0], **sets} if others else {"train": names[0]}
    example = ", ".join(f"{split}: {name}" for split, name in sets.items())
    return f"set data.sets if its {len(names)} json files are COCO's, such as {{{example}}}"


class Found(NamedTuple):
    """What a source holds.

    Attributes:
        classes: in the order of the labels.
        splits: readable records of each split; their paths are the source's.
        sets: where each split comes from, for the manifest.
        undivided: the source names no splits: all is train, and test has to be held out too.
    """

    classes: tuple[str, ...]
    splits: dict[str, list[ImageRecord]]
    sets: dict[str, list[str]]
    undivided: bool = False


class Problem(NamedTuple):
    """A bad file and what is wrong with it."""

    file: str
    message: str


class Problems:
    """Collects bad files, or fails on the first.

    Attributes:
        found: all problems so far.
        set_aside: how many images they cost.
    """

    def __init__(self, strict: bool = False) -> None:
        self.strict = strict
        self.found: list[Problem] = []
        self.set_aside = 0

    def add(self, error: BadFile, images: int = 1) -> None:
        """Notes a problem that costs so many images.

        Raises:
            BadFile: the error itself, where problems are strict.
        """
        if self.strict:
            raise error
        self.found.append(Problem(error.file, error.message))
        self.set_aside += images


def checked_boxes(boxes: NDArray[np.float64], names: Sequence[str],
                  width: int, height: int) -> NDArray[np.float32]:
    """Boxes as they are used: clipped to the image, on the grid of thousandths.

    Args:
        boxes: (n, 4) x1 y1 x2 y2, 0-based continuous pixel edges.
        names: (n,) class names, for the message.

    Raises:
        ValueError: a box is not finite, outside the image by more than BORDER, or empty.
    """
    limits = np.array([width, height, width, height], np.float64)
    clipped = np.clip(np.round(boxes, DECIMALS), 0, limits)
    for number, (name, box, inside) in enumerate(zip(names, boxes, clipped, strict=True), start=1):
        outside = not (np.abs(box - inside) <= BORDER).all()  # NaN is outside too
        if outside or not (inside[:2] < inside[2:]).all():
            corners = ", ".join(f"{edge:g}" for edge in box)
            raise ValueError(f"object {number} ({name}): its box (x1 y1 x2 y2 from 0: {corners}) "
                             f"{'reaches outside' if outside else 'is empty in'} "
                             f"the image of {width}x{height} pixels")
    return clipped.astype(np.float32)


def labelled(names: Sequence[str], classes: Sequence[str]) -> NDArray[np.int64]:
    """(n,) int64 labels of class names.

    Raises:
        ValueError: a name is not in the class list.
    """
    for name in names:
        if name not in classes:
            raise ValueError(f"class {name!r} is not in the class list ({', '.join(classes)}); "
                             "data.classes sets another")
    return np.array([classes.index(name) for name in names], np.int64)
