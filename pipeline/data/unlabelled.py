"""Images without labels: a folder of them, and train images whose annotations are not used."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.dataset import UNLABELLED, ImageRecord
from pipeline.data.images import BadFile, image_size
from pipeline.data.sources import Problems, files_below
from pipeline.errors import UserError
from pipeline.inform import Progress, no_progress

SUFFIXES = (".jpg", ".jpeg", ".png")
_NO_OBJECTS: Any = {"boxes": np.empty((0, 4), np.float32), "labels": np.empty(0, np.int64),
                    "difficult": np.empty(0, np.bool_), "truncated": np.empty(0, np.bool_)}


def read_images(folder: Path, problems: Problems, progress: Progress = no_progress) -> list[ImageRecord]:
    """The images of a folder, at any depth, by path; what else is in it is not looked at.

    Args:
        problems: takes the images that have to be set aside.

    Raises:
        UserError: it is no folder, or has no image.
    """
    if not folder.is_dir():
        raise UserError(f"data.unlabelled: {folder} is not a folder.")
    paths = [path for path in files_below(folder) if path.suffix.lower() in SUFFIXES]
    if not paths:
        raise UserError(f"data.unlabelled: {folder} has no image ({', '.join(SUFFIXES)}), at any depth.")
    records = []
    for done, path in enumerate(paths, start=1):
        try:
            width, height = image_size(path)
            name = str(path.relative_to(folder).with_suffix(""))
            records.append(ImageRecord(name, path, width, height, **_NO_OBJECTS, labelled=False))
        except BadFile as error:
            problems.add(error)
        progress(done, len(paths), "sizes")
    return records


def withhold_labels(splits: Mapping[str, Sequence[ImageRecord]], share: float,
                    seed: int) -> dict[str, list[ImageRecord]]:
    """Leaves a share of train its labels; the other images lose them and come first in `UNLABELLED`.

    The seed and the images' ids rank them, and the first round(share * n), at least one, keep theirs: those of a
    smaller share are among those of a larger one.
    """
    result = {split: list(records) for split, records in splits.items()}
    train = result["train"]
    drawn = sorted(train, key=lambda record: hashlib.sha256(f"labels {seed} {record.id}".encode()).digest())
    kept = {record.id for record in drawn[: max(1, round(share * len(train)))]}
    withheld = [replace(record, **_NO_OBJECTS, labelled=False) for record in train if record.id not in kept]
    if withheld:
        result["train"] = [record for record in train if record.id in kept]
        result[UNLABELLED] = withheld + result.get(UNLABELLED, [])
    return result


