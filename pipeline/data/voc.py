"""Pascal VOC: a VOCdevkit, or a folder in its layout."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from PIL import Image

from pipeline.data.dataset import ImageRecord
from pipeline.data.images import FORMATS, BadFile
from pipeline.data.sources import Found, Problems, advice_on_jsons, files_below, labelled
from pipeline.data.voc_xml import read_annotation
from pipeline.errors import UserError, unknown
from pipeline.inform import Progress, no_progress

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor")

#: ImageSets/Main also lists the images of each class: aeroplane_train.txt, …
_OF_ONE_CLASS = re.compile(r".+_(train|val|trainval|test)")
#: The sets that `data.download` can fetch.
_OF_A_YEAR = re.compile(r"20(0[7-9]|1[0-2])_(train|val|trainval|test)")


def read_voc(source: Path, *, sets: Mapping[str, Sequence[str]] | None = None,
             classes: Sequence[str] | None = None, problems: Problems,
             progress: Progress = no_progress) -> Found:
    """Reads a VOCdevkit, its parent, one of its years, or any folder in VOC layout.

    Args:
        source: the folder.
        sets: sets of each split, "2007_trainval" in a devkit and "trainval" elsewhere; None takes
            what there is. A devkit's train is then the trainval of all its years, its test that
            of the first year that has one. Elsewhere every file of ImageSets/Main is a split;
            trainval is train unless there are train and val.
        classes: None takes VOC's twenty for a devkit, and else the names found, sorted.
        problems: takes the images that have to be set aside.

    Raises:
        UserError: the folder is none of these, or lacks the sets.
    """
    folders = _folders(source, sets)
    available = {name: path for year, folder in folders.items() for name, path in _sets(folder, year)}
    plan = _plan(available, sets, years=[year for year in folders if year])
    wanted = _wanted(plan, available)
    listings = {folder: _Listing(folder) for folder in folders.values()}
    read = []
    for done, ((folder, name), (split, list_file)) in enumerate(wanted.items(), start=1):
        path = folder / "Annotations" / f"{name}.xml"
        try:
            if not path.is_file():
                raise BadFile(path, f"the annotation does not exist, but {list_file} names it")
            annotation = read_annotation(path)
            read.append((split, name, path, annotation, listings[folder].find(name, annotation.filename)))
        except BadFile as error:
            problems.add(error)
        progress(done, len(wanted), "annotations")
    if classes is None:
        found = {name for _, _, _, annotation, _ in read for name in annotation.names}
        classes = sorted(found) if "" in folders else CLASSES
    if zeros := {path: annotation.zeros for _, _, path, annotation, _ in read if annotation.zeros}:
        problems.add(BadFile(next(iter(zeros)), "looks 0-based: xmin or ymin is 0, where VOC counts from 1 (boxes: "
                             f"{sum(zeros.values())}, files: {len(zeros)}); add 1 to all corners if so"), images=0)
    users: dict[Path, list[Path]] = defaultdict(list)
    for _, _, path, _, image in read:
        users[image].append(path)
    splits: dict[str, list[ImageRecord]] = {split: [] for split in plan}
    for split, name, path, annotation, image in read:
        try:
            for other in users[image]:
                if other != path:
                    raise ValueError(f"it is of {image}, and so is {other}: an image has one annotation")
            labels = labelled(annotation.names, classes)
        except ValueError as error:
            problems.add(BadFile(path, str(error)))
            continue
        splits[split].append(ImageRecord(
            id=name, path=image, width=annotation.width, height=annotation.height, boxes=annotation.boxes,
            labels=labels, difficult=annotation.difficult, truncated=annotation.truncated))
    return Found(tuple(classes), splits, plan)


def _folders(source: Path, sets: Mapping[str, Sequence[str]] | None) -> dict[str, Path]:
    """Year -> folder of a devkit, or "" -> folder of any other data in VOC layout."""
    if (source / "Annotations").is_dir():
        year = re.fullmatch(r"VOC(\d{4})", source.name)
        return {year[1] if year else "": source}
    for devkit in (source / "VOCdevkit", source):
        years = {path.name[3:]: path for path in sorted(devkit.glob("VOC[0-9][0-9][0-9][0-9]"))
                 if (path / "Annotations").is_dir()}
        if years:
            return years
    if not source.exists():
        of_voc = all(_OF_A_YEAR.fullmatch(name) for names in (sets or {}).values() for name in names)
        fetch = ", or data.download to true, which fetches Pascal VOC" if of_voc else ""
        raise UserError(f"data.source: {source.absolute()} does not exist; set data.source to where the data is"
                        f"{fetch}.")
    advice = advice_on_jsons(source)
    raise UserError(f"data.source: {source} is neither a VOCdevkit (VOC2007, VOC2012) nor in VOC layout "
                    f"(Annotations, JPEGImages, ImageSets/Main){'; ' * bool(advice)}{advice}.")


def _sets(folder: Path, year: str) -> Iterator[tuple[str, Path]]:
    files = sorted((folder / "ImageSets" / "Main").glob("*.txt"))
    if not files:
        raise UserError(f"{folder} has no ImageSets/Main/*.txt: list the images of each split there, "
                        "one id a line in train.txt, val.txt, test.txt.")
    for path in files:
        yield f"{year}_{path.stem}" if year else path.stem, path


def _plan(available: Mapping[str, Path], sets: Mapping[str, Sequence[str]] | None,
          years: Sequence[str]) -> dict[str, list[str]]:
    """The sets of each split."""
    whole = [name for name, path in available.items()
             if not _OF_ONE_CLASS.fullmatch(path.stem) and _lines(path)]
    if sets is not None:
        for split, names in sets.items():
            for name in names:
                if name not in available:
                    raise unknown(f"data.sets.{split}: set", name, whole)
        return {split: list(names) for split, names in sets.items()}
    if years:
        return _devkit_plan(whole, years)
    plan = {name: [name] for name in whole if name != "trainval"}
    if "trainval" in whole and not {"train", "val"} <= plan.keys():
        plan["train"] = ["trainval"]
    return plan


def _devkit_plan(whole: Sequence[str], years: Sequence[str]) -> dict[str, list[str]]:
    plan: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for year in years:
        parts = {"train": "trainval"} if f"{year}_trainval" in whole else {"train": "train", "val": "val"}
        if not plan["test"]:
            parts["test"] = "test"
        for split, name in parts.items():
            if f"{year}_{name}" in whole:
                plan[split].append(f"{year}_{name}")
    return {split: names for split, names in plan.items() if names}


def _wanted(plan: Mapping[str, Sequence[str]],
            available: Mapping[str, Path]) -> dict[tuple[Path, str], tuple[str, Path]]:
    """(folder, image id) -> (its split, the list that names it)."""
    wanted: dict[tuple[Path, str], tuple[str, Path]] = {}
    for split, names in plan.items():
        for path in (available[name] for name in names):
            for line in _lines(path):
                other, list_file = wanted.setdefault((path.parents[2], line), (split, path))
                if other != split:
                    raise UserError(f"{path} names {line!r} for {split}, but {list_file} has it in {other}: "
                                    "an image belongs to one split; data.sets says which sets are used.")
    return wanted


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text file in UTF-8: expected one image id a line.") from None
    return list(dict.fromkeys(line.strip() for line in lines if line.strip()))


class _Listing:
    """The files of JPEGImages, and its images by id, since some tools leave <filename> stale or empty."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.annotations = folder / "JPEGImages", folder / "Annotations"
        self.files = {str(path.relative_to(self.folder)) for path in files_below(self.folder)}
        self.images = {_id(file): file for file in sorted(self.files, reverse=True)
                       if Image.registered_extensions().get(Path(file).suffix.lower()) in FORMATS}

    def find(self, name: str, filename: str) -> Path:
        """The image of an id; one of another id only where that has no annotation of its own."""
        named = str(Path(name).parent / (filename or f"{Path(name).name}.jpg"))
        if filename and named in self.files:
            other = _id(named)
            if other == name or not (name in self.images or (self.annotations / f"{other}.xml").is_file()):
                return self.folder / named
        if name in self.images:
            return self.folder / self.images[name]
        if named in self.files:
            raise BadFile(self.folder / f"{name}.jpg", f"the image does not exist, and its <filename>, {named}, has an "
                                                       "annotation of its own")
        raise BadFile(self.folder / named, "the image does not exist")


def _id(file: str) -> str:
    return str(Path(file).with_suffix(""))
