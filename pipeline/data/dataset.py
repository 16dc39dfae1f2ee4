"""A prepared data set: the folder that `prepare` wrote, as records in memory.

The folder is in VOC layout, for people and other tools. Beside it stand `manifest.json` and
`annotations.json`, which holds classes, splits, boxes, flags and the sha256 of every image file:
reading 16,000 XML files takes seconds, reading this one a tenth of one. Its sha256 is the
fingerprint of the data set.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.images import read_image
from pipeline.errors import UserError, unknown

FORMAT = 1
#: The split that teachers and students learn on.
TRAIN = "train"
#: The split of images whose objects nobody names: a labelled image without objects is another thing.
UNLABELLED = "unlabelled"


@dataclass(frozen=True, eq=False)
class ImageRecord:
    """An image and what is in it.

    Attributes:
        id: unique in the data set.
        path: the image file.
        width, height: in pixels, as annotated.
        boxes: (n, 4) float32 x1 y1 x2 y2, 0-based continuous pixel edges, inside the image.
        labels: (n,) int64 index in the class list.
        difficult, truncated: (n,) bool flags of the objects.
        sha256: of the image file; empty where nobody looked.
        labelled: False where nobody says what is in it: no boxes then does not mean no objects.
    """

    id: str
    path: Path
    width: int
    height: int
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    difficult: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    sha256: str = ""
    labelled: bool = True

    def read(self) -> NDArray[np.uint8]:
        """The picture: (height, width, 3) uint8 RGB; upright where no annotation may be of the stored pixels."""
        return read_image(self.path, (self.height, self.width), upright=not self.labelled)


@dataclass(frozen=True, eq=False)
class DataSet:
    """What `prepare` made of a source.

    Attributes:
        name: the folder's name in params.
        root: the folder.
        classes: names, in the order of the labels.
        splits: the records of each split; those of `UNLABELLED`, and of no other, are not labelled.
        fingerprint: sha256 of images, boxes, flags, classes and splits.
        manifest: all of manifest.json.
    """

    name: str
    root: Path
    classes: tuple[str, ...]
    splits: dict[str, tuple[ImageRecord, ...]]
    fingerprint: str
    manifest: dict[str, Any]

    def records(self, split: str) -> tuple[ImageRecord, ...]:
        """The records of a split, or of "train+unlabelled": those of several, one split after the other.

        Raises:
            UserError: there is no such split.
        """
        names = [split] if split in self.splits else split.split("+")
        for name in names:
            if name not in self.splits:
                raise unknown(f"{self.root}: split", name, list(self.splits))
        return tuple(chain.from_iterable(self.splits[name] for name in names))

    def of_classes(self, classes: Sequence[str], *, lacking: bool = False) -> "DataSet":
        """The same images, in which only objects of these classes are named: labels count them in this order.

        Args:
            classes: some of the data's.
            lacking: allow names of which the data has no objects; one at least is the data's.

        Raises:
            UserError: the data has no such class.
        """
        numbers = np.full(len(self.classes), -1)
        for number, name in enumerate(classes):
            if name in self.classes:
                numbers[self.classes.index(name)] = number
            elif not lacking or not {*classes} & {*self.classes}:
                raise unknown(f"data/{self.name}: class", name, list(self.classes))
        splits = {split: tuple(_renumbered(record, numbers) for record in records)
                  for split, records in self.splits.items()}
        return replace(self, classes=tuple(classes), splits=splits)


def load_data(root: str | Path) -> DataSet:
    """Reads a folder that `prepare` wrote.

    Raises:
        UserError: the folder is not such a one, of another format version, changed since, or
            lacks images.
    """
    root = Path(root)
    manifest = load_manifest(root)
    path = root / "annotations.json"
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist. Run 'pipeline prepare' again.") from None
    if hashlib.sha256(content).hexdigest() != manifest.get("fingerprint"):
        raise UserError(f"{path} is not the file that {root / 'manifest.json'} describes: "
                        "it changed after prepare. Run 'pipeline prepare' again.")
    tree = json.loads(content)
    folder = root / "JPEGImages"
    unlabelled = set(tree["splits"].get(UNLABELLED, ()))
    records = {key: _record(key, folder, image, key not in unlabelled) for key, image in tree["images"].items()}
    present = set(os.listdir(folder)) if folder.is_dir() else set()
    missing = [record.path for record in records.values() if record.path.name not in present]
    if missing:
        raise UserError(f"{missing[0]} does not exist ({len(missing)} of {len(records)} images are missing). "
                        "Run 'pipeline prepare' again.")
    return DataSet(
        name=manifest["name"], root=root, classes=tuple(tree["classes"]),
        splits={split: tuple(records[key] for key in keys) for split, keys in tree["splits"].items()},
        fingerprint=manifest["fingerprint"], manifest=manifest)


def _renumbered(record: ImageRecord, numbers: NDArray[np.int64]) -> ImageRecord:
    """The record with labels by `numbers`, less the objects whose number is negative."""
    kept = numbers[record.labels] >= 0
    return replace(record, boxes=record.boxes[kept], labels=numbers[record.labels[kept]],
                   difficult=record.difficult[kept], truncated=record.truncated[kept])


def load_manifest(root: Path) -> dict[str, Any]:
    """What `prepare` says of the folder that it wrote.

    Raises:
        UserError: the folder is not such a one, or of another format version.
    """
    path = root / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{root} holds no prepared data: it has no {path.name}. "
                        "Run 'pipeline prepare'.") from None
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}. Run 'pipeline prepare' again.") from None
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != FORMAT:
        raise UserError(f"{path} has format {found!r}, expected {FORMAT}. Run 'pipeline prepare' again.")
    if missing := [key for key in ("name", "splits", "fingerprint") if key not in manifest]:
        raise UserError(f"{path} has no {missing[0]!r}. Run 'pipeline prepare' again.")
    return dict(manifest)


def _record(key: str, folder: Path, image: dict[str, Any], labelled: bool) -> ImageRecord:
    return ImageRecord(
        id=key, path=folder / image["file"], width=image["width"], height=image["height"],
        boxes=np.array(image["boxes"], np.float32).reshape(-1, 4),
        labels=np.array(image["labels"], np.int64),
        difficult=np.array(image["difficult"], np.bool_),
        truncated=np.array(image["truncated"], np.bool_), sha256=image["sha256"], labelled=labelled)
