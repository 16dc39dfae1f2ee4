"""COCO JSON: a file of images, annotations and categories, and a folder of images."""

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.dataset import ImageRecord
from pipeline.data.images import BadFile
from pipeline.data.sources import Found, Problems, advice_on_jsons, checked_boxes, labelled
from pipeline.errors import UserError
from pipeline.inform import Progress, no_progress

_DIGITS = re.compile("-?[0-9]{1,18}")


def read_coco(source: Path, *, sets: Mapping[str, Sequence[str]] | None = None, images: str | None = None,
              classes: Sequence[str] | None = None, problems: Problems,
              progress: Progress = no_progress) -> Found:
    """Reads one COCO json, or several as the splits of one data set.

    A crowd (iscrowd) is a difficult object.

    Args:
        source: the json, which then names no splits; with `sets` the folder their paths start
            from (or a json in it).
        sets: json files of each split.
        images: folder of the images, as it stands or from the source's folder. None looks beside
            the json, one folder higher, and in `images` and the set's own folder (train2017 for
            instances_train2017.json) in both.
        classes: None takes the categories in the order of their ids.
        problems: takes the images that have to be set aside.

    Raises:
        UserError: a json is missing or not COCO's.
    """
    base = _base(source)
    plan = _plan(source, sets)
    files = {split: [base / name for name in names] for split, names in plan.items()}
    trees = {path: _read_json(path) for paths in files.values() for path in paths}
    if classes is None:
        classes = list(dict.fromkeys(name for tree in trees.values() for name in _categories(tree).values()))
    splits: dict[str, list[ImageRecord]] = {}
    for split, paths in files.items():
        before = len(problems.found)
        said: dict[Path, list[tuple[Path, ImageRecord]]] = defaultdict(list)
        for path in paths:
            for record in _records(path, trees[path], _folders(path, base, images), classes, problems, progress):
                said[record.path.resolve()].append((path, record))
        spoiled = {Path(problem.file).resolve() for problem in problems.found[before:]}
        splits[split] = list(_once([parts for image, parts in said.items() if image not in spoiled], problems))
    return Found(tuple(classes), splits, plan, undivided=sets is None)


def coco_files(source: Path, *, sets: Mapping[str, Sequence[str]] | None = None,
               images: str | None = None) -> list[Path]:
    """What `read_coco` reads: the jsons, and of the images that they name those that are there."""
    base, files = _base(source), []
    for path in (base / name for names in _plan(source, sets).values() for name in names):
        folders = _folders(path, base, images)
        files.append(path)
        for image in _read_json(path)["images"]:
            with suppress(BadFile):
                files += filter(None, [_find(image.get("file_name"), folders)])
    return files


def _base(source: Path) -> Path:
    """Where the paths of jsons start from."""
    return source if source.is_dir() else source.parent


def _plan(source: Path, sets: Mapping[str, Sequence[str]] | None) -> dict[str, list[str]]:
    """The jsons of each split."""
    if sets is None and source.is_dir():
        raise UserError(f"data.source: {source} is a folder, expected a COCO json, or data.sets with those of each "
                        f"split; {advice_on_jsons(source) or 'no json file was found in it'}.")
    return {"train": [source.name]} if sets is None else {split: list(names) for split, names in sets.items()}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path.absolute()} does not exist: data.source or data.sets names a COCO json.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}.") from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(tree, dict) or not _is_list_of_blocks(tree.get(key)):
            raise UserError(f"{path} is not a COCO json: it has no list '{key}'.")
    for category in tree["categories"]:
        if not isinstance(category.get("name"), str) or _whole(category.get("id")) is None:
            raise UserError(f"{path} is not a COCO json: the category {category} has no number and name.")
    if len(_categories(tree)) < len(tree["categories"]):
        raise UserError(f"{path} is not a COCO json: two of its categories have one id.")
    return dict(tree)


def _is_list_of_blocks(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _categories(tree: Mapping[str, Any]) -> dict[int, str]:
    """Category id -> class name, in the order of the ids."""
    return dict(sorted((int(one["id"]), one["name"]) for one in tree["categories"]))


def _whole(value: object) -> int | None:
    """A whole number, which tools write as 2, 2.0 or "2"; None where it is anything else."""
    if (isinstance(value, float) and value.is_integer()) or (isinstance(value, str) and _DIGITS.fullmatch(value)):
        return int(value)
    return value if isinstance(value, int) else None


def _key(value: object) -> str:
    """The id of an image: a whole number, however it is written, or any other word."""
    whole = _whole(value)
    return str(value if whole is None else whole)


def _folders(path: Path, base: Path, images: str | None) -> list[Path]:
    """Where the images of a json may be."""
    bases = [Path(images), base / images] if images else [
        parent / name for parent in (path.parent, path.parent.parent) for name in ("", "images")]
    own = path.stem.rpartition("_")[2]  # instances_train2017 -> train2017
    folders = [folder for start in bases for folder in (start, start / own) if folder.is_dir()]
    if not folders:
        raise UserError(f"data.images: {images} is not a folder.")
    return folders


def _find(file: object, folders: Sequence[Path]) -> Path | None:
    """The first of the folders' files of this name.

    Raises:
        BadFile: the system does not look for such a name, or not there; or it leads out of all of the folders.
    """
    paths = [folder / file for folder in folders] if isinstance(file, str) and file else []
    try:
        found = next((path for path in paths if path.is_file()), None)
    except OSError as error:
        raise BadFile(error.filename, f"the image cannot be looked for: {error.strerror}") from None
    if found and not any(_normal(found).is_relative_to(_normal(folder)) for folder in folders):
        raise BadFile(found, f"is outside of {folders[0]}: name a folder that holds all images as data.images")
    return found


def _normal(path: Path) -> Path:
    """An absolute path without `..`; links stay."""
    return Path(os.path.abspath(path))


def _records(path: Path, tree: Mapping[str, Any], folders: Sequence[Path], classes: Sequence[str],
             problems: Problems, progress: Progress) -> Iterator[ImageRecord]:
    names = _categories(tree)
    of_image: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for one in tree["annotations"]:
        of_image[_key(one.get("image_id"))].append(one)
    files: dict[str, set[str]] = defaultdict(set)
    for image in tree["images"]:
        files[_key(image.get("id"))].add(str(image.get("file_name")))
    ids: set[str] = set()
    for done, image in enumerate(tree["images"], start=1):
        key = _key(image.get("id"))
        try:
            if len(files[key]) > 1 and (found := _find(image.get("file_name"), folders)):
                raise BadFile(found, f"{path} has other images of its id, {key}, so whose the annotations are is open")
            if key in ids:
                raise BadFile(path, f"the image id {key} occurs twice")
            ids.add(key)
            yield _record(path, image, of_image[key], folders, names, classes)
        except BadFile as error:
            problems.add(error)
        progress(done, len(tree["images"]), "annotations")
    for key in sorted(of_image.keys() - files.keys()):
        lost = f"{len(of_image[key])} annotations are of image_id {key}, which no image has"
        problems.add(BadFile(path, lost), images=0)


def _once(images: Iterable[Sequence[tuple[Path, ImageRecord]]], problems: Problems) -> Iterator[ImageRecord]:
    """Each image as all jsons of its split have it."""
    for said in images:
        try:
            yield _merged(said)
        except BadFile as error:
            problems.add(error)


def _merged(said: Sequence[tuple[Path, ImageRecord]]) -> ImageRecord:
    """An image with all that is said of it in (json, record) pairs; an object that is said twice is one.

    Raises:
        BadFile: they do not give it one size.
    """
    (first, whole), *others = said
    for path, part in others:
        if (part.width, part.height) != (whole.width, whole.height):
            raise BadFile(whole.path, f"{first} gives it {whole.width}x{whole.height} pixels, "
                                      f"{path} {part.width}x{part.height}")
        known = (part.boxes[:, None] == whole.boxes).all(2) & (part.labels[:, None] == whole.labels)
        objects: Any = {name: np.concatenate([getattr(whole, name), getattr(part, name)[~known.any(1)]])
                        for name in ("boxes", "labels", "difficult", "truncated")}
        whole = replace(whole, **objects)
    return whole


def _record(path: Path, image: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]],
            folders: Sequence[Path], names: Mapping[int, str], classes: Sequence[str]) -> ImageRecord:
    file, width, height = image.get("file_name"), _whole(image.get("width")), _whole(image.get("height"))
    if not isinstance(file, str) or not file:
        raise BadFile(path, f"the image of id {image.get('id')!r} has no file_name")
    found = _find(file, folders)
    if found is None:
        raise BadFile(folders[0] / file, f"the image does not exist, but {path} names it")
    if width is None or height is None or min(width, height) < 1:
        raise BadFile(found, f"{path} gives it no size: its width is {image.get('width')!r}, "
                             f"its height {image.get('height')!r}")
    try:
        found_names = [_class_of(one, names) for one in annotations]
        corners = np.array([_box_of(one) for one in annotations], np.float64).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        boxes = checked_boxes(corners, found_names, width, height)
        labels = labelled(found_names, classes)
        difficult = np.array([_is_crowd(one) for one in annotations], np.bool_)
    except (ValueError, OverflowError) as error:  # a whole number may have any number of digits
        raise BadFile(found, f"{path}: {error}") from None
    return ImageRecord(
        id=str(Path(file).with_suffix("")), path=found, width=width, height=height,
        boxes=boxes, labels=labels, difficult=difficult,
        truncated=np.zeros(len(annotations), np.bool_))


def _class_of(annotation: Mapping[str, Any], names: Mapping[int, str]) -> str:
    category = _whole(annotation.get("category_id"))
    if category is None or category not in names:
        raise ValueError(f"annotation {annotation.get('id')!r} has the unknown category_id "
                         f"{annotation.get('category_id')!r}")
    return names[category]


def _is_crowd(annotation: Mapping[str, Any]) -> bool:
    crowd = _whole(annotation.get("iscrowd") or 0)
    if crowd not in (0, 1):
        raise ValueError(f"annotation {annotation.get('id')!r} has the iscrowd {annotation['iscrowd']!r}, "
                         "expected 0 or 1")
    return bool(crowd)


def _box_of(annotation: Mapping[str, Any]) -> list[float]:
    box = annotation.get("bbox")
    if not (isinstance(box, list) and len(box) == 4 and all(isinstance(edge, int | float) for edge in box)):
        raise ValueError(f"annotation {annotation.get('id')!r} has the bbox {box!r}, "
                         "expected [x, y, width, height]")
    return box
