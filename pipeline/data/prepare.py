"""`prepare`: any source becomes one folder in VOC layout, checked image by image."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.coco import read_coco
from pipeline.data.dataset import FORMAT, TRAIN, UNLABELLED, ImageRecord
from pipeline.data.images import BadFile, turned_in_place
from pipeline.data.sources import DECIMALS, Found, Problems
from pipeline.data.unlabelled import read_images, withhold_labels
from pipeline.data.voc import read_voc
from pipeline.data.voc_xml import write_annotation
from pipeline.errors import FULL, UserError
from pipeline.inform import Progress, no_progress
from pipeline.params import Data

#: Splits that give up an image that another split has too, the first of them last.
_YIELDING = ("val", TRAIN, UNLABELLED)
#: Longest id in bytes: a number and a suffix added, it is still a valid file name.
_LONGEST = 240


def prepare(params: Data, out: Path, *, progress: Progress = no_progress) -> dict[str, Any]:
    """Writes a data set: JPEGImages, Annotations, ImageSets/Main, annotations.json, manifest.json.

    Image files keep their bytes, ids and boxes become unique and clean, and every image is decoded
    once to see that it can be. What is bad is set aside and listed in the manifest.

    Args:
        params: the source and how it is divided.
        out: a folder that does not exist yet. It is complete when manifest.json is in it.

    Returns:
        The manifest: format, name, classes, splits (images of each), counts (images, those labelled and
        unlabelled, objects, difficult, truncated, objects per_class), problems (file and message), set_aside
        (images), copies (images of data.unlabelled that the data set has already), licence, source,
        params (those that decide what is in it), fingerprint. The fingerprint is the sha256 of annotations.json,
        which holds classes, splits, boxes, flags and the sha256 of every image file. What the source says
        of an image in the split `unlabelled` is not kept.

    Raises:
        UserError: the source or its sets are not there, strict meets a bad file, an image is in the
            lists of two VOC splits, or a split has no good image.
    """
    problems = Problems(params.strict)
    out.mkdir(parents=True, exist_ok=True)
    found = _read(params, out, problems, progress)
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    sources = _with_unlabelled(found, params, problems, progress)
    splits, origins = _take_in(sources, out / "JPEGImages", problems, progress)
    copies = _leave_to_one_split(splits, origins, problems)
    for split, records in splits.items():
        if not records:
            first = f" (first problem: {': '.join(problems.found[0])})" if problems.found else ""
            if split == UNLABELLED:
                raise UserError(f"data.unlabelled: {params.unlabelled} has no usable image that the data set does not "
                                f"have already{first}.")
            raise UserError(f"data.source: {params.source} has no usable image in split {split!r}{first}.")
    if "train" not in splits:
        raise UserError(f"data.source: {params.source} has no split 'train', only "
                        f"{', '.join(splits) or 'none'}: data.sets says what it is made of.")
    counts = _counts(splits, found.classes)
    for name in params.classes or ():
        if not counts["per_class"][name]:
            problems.add(BadFile(f"data.classes: {name}", "no object is one (a typo?)"), images=0)
    wanted = ("val", "test") if found.undivided else ("val",)
    splits = hold_out(splits, wanted, params.val_fraction, params.seed)
    splits = withhold_labels(splits, params.labels, params.seed)
    _write_voc(out, splits, found.classes)
    fingerprint = _write_annotations(out, splits, found.classes)
    manifest: dict[str, Any] = {
        "format": FORMAT, "name": params.name, "classes": list(found.classes),
        "splits": {split: len(records) for split, records in splits.items()},
        "counts": _counts(splits, found.classes),
        "problems": [problem._asdict() for problem in problems.found], "set_aside": problems.set_aside,
        "copies": copies, "licence": None, "source": {"path": params.source, "sets": found.sets},
        "params": params.deciding, "fingerprint": fingerprint}
    if params.source == "demo":
        from pipeline.data import demo

        scenes = params.demo.model_dump(mode="json")
        manifest |= {"licence": demo.LICENCE, "source": {"path": "demo", "demo": scenes}}
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    return manifest


def hold_out(splits: Mapping[str, Sequence[ImageRecord]], wanted: Iterable[str], fraction: float,
             seed: int) -> dict[str, list[ImageRecord]]:
    """Takes a fraction of train for each wanted split that is not there.

    Which images are taken depends on the seed and on each image's id, so that one image more or less in the
    source leaves the others where they were. Images whose files are the same go together, where the fraction has
    room for them.

    Returns:
        The splits in the order train, val, test, others; the records in theirs.
    """
    train = list(splits["train"])
    result = {"train": train} | {split: list(records) for split, records in splits.items()}
    twins: dict[str, list[ImageRecord]] = {}
    for record in sorted(train, key=lambda record: hashlib.sha256(f"{seed} {record.id}".encode()).digest()):
        twins.setdefault(record.sha256 or record.id, []).append(record)
    drawn = list(twins.values())
    share = max(1, round(fraction * len(train))) if fraction > 0 else 0
    for split in wanted:
        if split in splits or not share or share >= sum(map(len, drawn)):
            continue
        taken: set[str] = set()
        for alike in drawn:
            if len(taken) + len(alike) <= share:
                taken |= {record.id for record in alike}
        drawn = [alike for alike in drawn if alike[0].id not in taken]
        if not taken:
            continue
        result[split] = [record for record in train if record.id in taken]
        result["train"] = [record for record in result["train"] if record.id not in taken]
    first = [split for split in ("train", "val", "test") if split in result]
    return {split: result[split] for split in dict.fromkeys([*first, *result])}


def _read(params: Data, out: Path, problems: Problems, progress: Progress) -> Found:
    if params.kind == "demo":
        from pipeline.data import demo

        demo.write_demo(params.demo, out, lambda done, total: progress(done, total, "scenes"))
        return read_voc(out, classes=demo.CLASSES, problems=problems, progress=progress)
    source = Path(params.source)
    if params.kind == "coco":
        return read_coco(source, sets=params.sets, images=params.images, classes=params.classes,
                         problems=problems, progress=progress)
    return read_voc(source, sets=params.sets, classes=params.classes, problems=problems, progress=progress)


def _with_unlabelled(found: Found, params: Data, problems: Problems,
                     progress: Progress) -> dict[str, list[ImageRecord]]:
    """The splits of the source, and the images of data.unlabelled as one more, behind them."""
    if UNLABELLED in found.splits:
        raise UserError(f"data.source: {params.source} has a split {UNLABELLED!r}, but those are the images without "
                        "annotations: data.sets gives it another name, data.unlabelled names their folder.")
    if params.unlabelled is None:
        return found.splits
    return found.splits | {UNLABELLED: read_images(Path(params.unlabelled), problems, progress)}


def _take_in(sources: Mapping[str, Sequence[ImageRecord]], folder: Path, problems: Problems,
             progress: Progress) -> tuple[dict[str, list[ImageRecord]], dict[str, Path]]:
    """Copies the images that can be decoded; returns their records, and where they came from by id."""
    ids: set[str] = set()
    plan = []
    turned: list[Path] = []
    for split, records in sources.items():
        for record in records:
            name = _unique(record.id, ids)
            plan.append((split, record, replace(record, id=name, path=folder / (name + record.path.suffix))))
    splits: dict[str, list[ImageRecord]] = {split: [] for split in sources}
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding and hashing release the GIL
        futures = [pool.submit(_copy, record, copy.path) for _, record, copy in plan]
        try:
            for done, ((split, record, copy), future) in enumerate(zip(plan, futures, strict=True), start=1):
                try:
                    sha256, in_place = future.result()
                    splits[split].append(replace(copy, sha256=sha256))
                    if in_place and record.labelled:
                        turned.append(record.path)
                except BadFile as error:
                    problems.add(error)
                progress(done, len(plan), "images")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    if turned:
        problems.add(BadFile(turned[0], "EXIF turns or mirrors it and leaves its size, so its boxes are taken for "
                     f"those of the stored pixels (images like it: {len(turned)}); store it upright where they are "
                     "not"), images=0)
    return splits, {copy.id: record.path for _, record, copy in plan}


def _leave_to_one_split(splits: dict[str, list[ImageRecord]], origins: Mapping[str, Path], problems: Problems) -> int:
    """Takes from a split the images whose file another has, byte by byte, and deletes them.

    So nobody learns on an image of val or test, which keep theirs. Two images of a labelled split may be the same.

    Args:
        splits: of the data set; changed in place.
        origins: the source's file of each image, by id.
        problems: takes the images of labelled splits that go.

    Returns:
        How many unlabelled images went.
    """
    owners: dict[str, tuple[str, ImageRecord]] = {}
    before = len(splits.get(UNLABELLED, ()))
    for split in sorted(splits, key=lambda split: _YIELDING.index(split) if split in _YIELDING else -1):
        kept = []
        for record in splits[split]:
            owner, first = owners.setdefault(record.sha256, (split, record))
            if first is record or owner == split != UNLABELLED:
                kept.append(record)
                continue
            record.path.unlink()
            if split != UNLABELLED:
                problems.add(BadFile(origins[record.id], f"it is left out of {split}: {owner} has the same picture, "
                                     f"{origins[first.id]}, and an image belongs to one split"))
        splits[split] = kept
    return before - len(splits.get(UNLABELLED, ()))


def _unique(name: str, taken: set[str]) -> str:
    """A flat name that no other image of the data set has, short enough for a file; two sources may use the same."""
    flat = name.replace(os.sep, "_")
    if len(encoded := os.fsencode(flat)) > _LONGEST:
        flat = f"{encoded[:_LONGEST - 9].decode(errors='ignore')}_{hashlib.sha256(encoded).hexdigest()[:8]}"
    unique = next(one for one in chain([flat], (f"{flat}_{number}" for number in count(2))) if one not in taken)
    taken.add(unique)
    return unique


def _copy(record: ImageRecord, target: Path) -> tuple[str, bool]:
    """Decodes an image to see that it can be, and copies it; the sha256 of its bytes, and `turned_in_place`."""
    record.read()
    try:
        target.name.encode()
        if record.path != target:
            shutil.copyfile(record.path, target)
        with target.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest(), turned_in_place(target)
    except UnicodeEncodeError:
        raise BadFile(record.path, "its name is not in UTF-8: give it another") from None
    except OSError as error:
        if error.errno in FULL:  # of all images, not of this one
            raise
        raise BadFile(record.path, f"it cannot be copied: {error.strerror}") from None


def _write_voc(out: Path, splits: Mapping[str, Sequence[ImageRecord]], classes: Sequence[str]) -> None:
    for record in splits.get(UNLABELLED, ()):  # the demo's scenes came with annotations
        (out / "Annotations" / f"{record.id}.xml").unlink(missing_ok=True)
    for split, records in splits.items():
        if split == UNLABELLED:  # other tools would look for its annotations
            continue
        names = "".join(f"{record.id}\n" for record in records)
        (out / "ImageSets" / "Main" / f"{split}.txt").write_text(names, encoding="utf-8")
        for record in records:
            write_annotation(out / "Annotations" / f"{record.id}.xml", record, classes)


def _write_annotations(out: Path, splits: Mapping[str, Sequence[ImageRecord]], classes: Sequence[str]) -> str:
    """Writes annotations.json, which load_data reads instead of the XML; returns its sha256."""
    images = {record.id: {
        "file": record.path.name, "sha256": record.sha256, "width": record.width, "height": record.height,
        "boxes": record.boxes.astype(np.float64).round(DECIMALS).tolist(), "labels": record.labels.tolist(),
        "difficult": record.difficult.astype(int).tolist(),
        "truncated": record.truncated.astype(int).tolist(),
    } for records in splits.values() for record in records}
    content = json.dumps({
        "classes": list(classes),
        "splits": {split: [record.id for record in records] for split, records in splits.items()},
        "images": images}, separators=(",", ":")).encode()
    (out / "annotations.json").write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def _counts(splits: Mapping[str, Sequence[ImageRecord]], classes: Sequence[str]) -> dict[str, Any]:
    records = [record for records in splits.values() for record in records]
    labels = [label for record in records for label in record.labels.tolist()]
    return {
        "images": len(records), "labelled": sum(record.labelled for record in records),
        "unlabelled": sum(not record.labelled for record in records), "objects": len(labels),
        "difficult": sum(int(record.difficult.sum()) for record in records),
        "truncated": sum(int(record.truncated.sum()) for record in records),
        "per_class": {name: labels.count(index) for index, name in enumerate(classes)}}
