"""COCO JSON: boxes, crowds, splits, where images are looked for, and what is bad."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.data.coco import read_coco
from pipeline.data.images import BadFile
from pipeline.data.sources import Found, Problems
from pipeline.errors import UserError

CATEGORIES = [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}]


def annotation(image: Any, box: Any, category: Any = 18, **more: Any) -> dict[str, Any]:
    return {"id": 100, "image_id": image, "bbox": box, "category_id": category} | more


def write(path: Path, names: Sequence[str], annotations: Sequence[dict[str, Any]] = (), *,
          folder: Path | None = None, **changes: Any) -> Path:
    """Writes a json whose images have the ids 1, 2, … and 40x30 pixels, and the images."""
    folder = folder or path.parent
    images = [{"id": number, "file_name": name, "width": 40, "height": 30}
              for number, name in enumerate(names, start=1)]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30)).save(folder / name)
    path.parent.mkdir(parents=True, exist_ok=True)
    tree = {"images": images, "annotations": list(annotations), "categories": CATEGORIES} | changes
    path.write_text(json.dumps(tree))
    return path


def names_of(found: Found) -> dict[str, list[str]]:
    return {split: [record.id for record in records] for split, records in found.splits.items()}


def test_one_json(tmp_path: Path) -> None:
    path = write(tmp_path / "all.json", ["a.jpg", "b.png"], [
        annotation(1, [0, 0, 40, 30]), annotation(1, [10.25, 5.5, 4, 3.125], 3, iscrowd=1)])
    found = read_coco(path, problems=Problems(strict=True))
    assert found.classes == ("car", "dog")  # by category id
    assert found.undivided
    a, b = found.splits["train"]
    assert (a.id, a.path, a.width, a.height) == ("a", tmp_path / "a.jpg", 40, 30)
    assert a.boxes.dtype == np.float32
    assert a.boxes.tolist() == [[0, 0, 40, 30], [10.25, 5.5, 14.25, 8.625]]
    assert a.labels.tolist() == [1, 0]
    assert a.difficult.tolist() == [False, True]
    assert not a.truncated.any()
    assert b.boxes.shape == (0, 4)


def test_a_box_on_the_border_is_clipped(tmp_path: Path) -> None:
    path = write(tmp_path / "all.json", ["a.jpg"], [annotation(1, [-0.5, 0, 41, 30.25])])
    record, = read_coco(path, problems=Problems(strict=True)).splits["train"]
    assert record.boxes.tolist() == [[0, 0, 40, 30]]


def test_splits_by_file_in_cocos_own_layout(tmp_path: Path) -> None:
    for split, name in [("train2017", "a.jpg"), ("val2017", "b.jpg")]:
        write(tmp_path / "annotations" / f"instances_{split}.json", [name], folder=tmp_path / split)
    sets = {"train": ["annotations/instances_train2017.json"], "test": ["annotations/instances_val2017.json"]}
    found = read_coco(tmp_path, sets=sets, problems=Problems(strict=True))
    assert names_of(found) == {"train": ["a"], "test": ["b"]}
    assert found.sets == sets
    assert not found.undivided
    assert found.splits["test"][0].path == tmp_path / "val2017" / "b.jpg"


@pytest.mark.parametrize("place", [".", "images", "../images", "images/all", "../all"])
def test_images_are_looked_for_around_the_json(tmp_path: Path, place: str) -> None:
    jsons = tmp_path / "jsons"
    path = write(jsons / "instances_all.json", ["sub/a.jpg"], folder=jsons / place)
    assert names_of(read_coco(path, problems=Problems(strict=True))) == {"train": ["sub/a"]}


def test_images_may_be_named(tmp_path: Path) -> None:
    path = write(tmp_path / "jsons" / "all.json", ["a.jpg"], folder=tmp_path / "elsewhere")
    for images in (str(tmp_path / "elsewhere"), "../elsewhere"):
        assert names_of(read_coco(path, images=images, problems=Problems(strict=True))) == {"train": ["a"]}
    with pytest.raises(UserError, match=r"data\.images: nowhere is not a folder"):
        read_coco(path, images="nowhere", problems=Problems())


def test_two_files_with_other_categories_make_one_class_list(tmp_path: Path) -> None:
    write(tmp_path / "train.json", ["a.jpg"], [annotation(1, [1, 1, 5, 5], 18)])
    write(tmp_path / "test.json", ["b.jpg"], [annotation(1, [1, 1, 5, 5], 1)],
          categories=[{"id": 1, "name": "dog"}, {"id": 2, "name": "cow"}])
    sets = {"train": ["train.json"], "test": ["test.json"]}
    found = read_coco(tmp_path, sets=sets, problems=Problems(strict=True))
    assert found.classes == ("car", "dog", "cow")
    assert [records[0].labels.tolist() for records in found.splits.values()] == [[1], [1]]


@pytest.mark.parametrize(("content", "what"), [
    (b"", "is not valid JSON"), (b'{"images": [', "is not valid JSON"), (b"\xff\xfd", "is not valid JSON"),
    (b"[" * 100_000, "is not valid JSON"),
    (b"[]", "has no list 'images'"), (b'{"images": [], "categories": []}', "has no list 'annotations'"),
    (b'{"images": [1], "annotations": [], "categories": []}', "has no list 'images'"),
    (b'{"images": [], "annotations": [], "categories": [{"name": "dog"}]}', "no number and name"),
    (b'{"images": [], "annotations": [], "categories": [{"id": 1, "name": "dog"}, {"id": 1, "name": "cat"}]}',
     "two of its categories have one id"),
])
def test_files_that_are_no_coco_json(tmp_path: Path, content: bytes, what: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=rf"a\.json is not .*{what}|a\.json {what}"):
        read_coco(tmp_path / "a.json", problems=Problems())


def test_a_missing_json(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.json does not exist"):
        read_coco(tmp_path / "none.json", problems=Problems())


@pytest.mark.parametrize(("one", "what"), [
    (annotation(1, [30, 10, 20, 5]), r"object 1 \(dog\): its box .* reaches outside the image of 40x30"),
    (annotation(1, [10, 10, 0, 5]), "is empty in the image"),
    (annotation(1, [10, 10, float("nan"), 5]), "reaches outside"),
    (annotation(1, [10**400, 10, 5, 5]), "int too large"),
    (annotation(1, [10, 10, 5]), r"annotation 100 has the bbox \[10, 10, 5\], expected \[x, y, width"),
    (annotation(1, None), "has the bbox None"),
    (annotation(1, [1, 1, 5, 5], 99), "annotation 100 has the unknown category_id 99"),
    (annotation(1, [1, 1, 5, 5], [18]), "unknown category_id"),
    (annotation(1, [1, 1, 5, 5], 18.5), r"unknown category_id 18\.5"),
    (annotation(1, [1, 1, 5, 5], iscrowd="no"), "annotation 100 has the iscrowd 'no', expected 0 or 1"),
])
def test_bad_annotations_set_their_image_aside(tmp_path: Path, one: dict[str, Any], what: str) -> None:
    path = write(tmp_path / "all.json", ["a.jpg", "b.jpg"], [one])
    problems = Problems()
    assert names_of(read_coco(path, problems=problems)) == {"train": ["b"]}
    assert problems.set_aside == len(problems.found) == 1
    assert problems.found[0].file == str(tmp_path / "a.jpg")
    with pytest.raises(BadFile, match=what):
        read_coco(path, problems=Problems(strict=True))


@pytest.mark.parametrize("write_as", [int, float, str])
def test_whole_numbers_may_be_written_in_other_ways(tmp_path: Path, write_as: Any) -> None:
    image = {"id": 1, "file_name": "a.jpg", "width": write_as(40), "height": write_as(30)}
    path = write(tmp_path / "all.json", ["a.jpg"], [
        annotation(write_as(1), [1, 1, 5, 5], write_as(18), iscrowd=write_as(0)),
        annotation(1, [2, 2, 5, 5], iscrowd=write_as(1))],
        images=[image], categories=[{"id": write_as(18), "name": "dog"}, {"id": 3, "name": "car"}])
    found = read_coco(path, problems=Problems(strict=True))
    record, = found.splits["train"]
    assert found.classes == ("car", "dog")
    assert (record.width, record.height) == (40, 30)
    assert record.labels.tolist() == [1, 1]
    assert record.difficult.tolist() == [False, True]


@pytest.mark.parametrize("width", [40.5, "40.0", "wide", "", float("nan"), float("inf"), [40], None, 0, "-3"])
def test_other_sizes_are_refused(tmp_path: Path, width: Any) -> None:
    path = write(tmp_path / "all.json", ["a.jpg"], images=[
        {"id": 1, "file_name": "a.jpg", "width": width, "height": 30}])
    with pytest.raises(BadFile, match=r"a\.jpg: .*all\.json gives it no size: its width is "):
        read_coco(path, problems=Problems(strict=True))


def test_bad_images_are_set_aside(tmp_path: Path) -> None:
    good = {"id": 1, "file_name": "a.jpg", "width": 40, "height": 30}
    path = write(tmp_path / "all.json", ["a.jpg", "b.jpg"], images=[
        good, {"id": 2, "file_name": "b.jpg"}, {"id": 3, "width": 40, "height": 30},
        good | {"id": 4, "file_name": "ghost.jpg"}, good])
    problems = Problems()
    assert names_of(read_coco(path, problems=problems)) == {"train": ["a"]}
    messages = [problem.message for problem in problems.found]
    expected = ["gives it no size", "the image of id 3 has no file_name", "does not exist", "image id 1 occurs twice"]
    assert all(what in message for message, what in zip(messages, expected, strict=True))
    assert problems.set_aside == 4


def test_of_images_that_share_an_id_none_gets_the_annotations(tmp_path: Path) -> None:
    images = [{"id": number, "file_name": name, "width": 40, "height": 30}
              for number, name in [(1, "a.jpg"), (2, "b.jpg"), ("1", "c.jpg")]]
    path = write(tmp_path / "all.json", ["a.jpg", "b.jpg", "c.jpg"], [
        annotation(1, [1, 1, 5, 5]), annotation(1, [2, 2, 6, 6], 3), annotation(2, [3, 3, 7, 7])], images=images)
    problems = Problems()
    record, = read_coco(path, problems=problems).splits["train"]
    assert (record.id, record.boxes.tolist()) == ("b", [[3, 3, 10, 10]])
    message = f"{path} has other images of its id, 1, so whose the annotations are is open"
    assert problems.found == [(str(tmp_path / name), message) for name in ("a.jpg", "c.jpg")]
    assert problems.set_aside == 2


def test_files_that_lie_elsewhere_are_not_read(tmp_path: Path) -> None:
    """A json of somebody else's must not make a data set of whatever the disk holds."""
    base, outside = tmp_path / "mine", tmp_path / "private.png"
    (base / "annotations").mkdir(parents=True)
    Image.new("RGB", (40, 30)).save(outside)
    Image.new("RGB", (40, 30)).save(base / "beside.png")
    images = [{"id": number, "file_name": name, "width": 40, "height": 30} for number, name in
              enumerate(("../../private.png", str(outside), "../beside.png", str(base / "beside.png")))]
    path = write(base / "annotations/all.json", [], images=images)
    problems = Problems()
    assert len(read_coco(path, problems=problems).splits["train"]) == 1  # the image beside, told twice
    told = [file for file, message in problems.found if "is outside of" in message]
    assert [os.path.abspath(file) for file in told] == [str(outside)] * 2
    found = read_coco(path, images=str(tmp_path), problems=Problems()).splits["train"]
    assert {record.path.name for record in found} == {"private.png", "beside.png"}


def test_an_image_that_a_json_repeats_keeps_its_annotations(tmp_path: Path) -> None:
    image = {"id": 1, "file_name": "a.jpg", "width": 40, "height": 30}
    path = write(tmp_path / "all.json", ["a.jpg"], [annotation(1, [1, 1, 5, 5])], images=[image, image])
    problems = Problems()
    record, = read_coco(path, problems=problems).splits["train"]
    assert record.boxes.tolist() == [[1, 1, 6, 6]]
    assert problems.found == [(str(path), "the image id 1 occurs twice")]


def test_what_several_jsons_say_of_an_image_is_put_together(tmp_path: Path) -> None:
    dog, car = annotation(1, [1, 1, 5, 5]), annotation(1, [1, 1, 5, 5], 3)
    write(tmp_path / "one.json", ["a.jpg", "b.jpg"], [dog])
    write(tmp_path / "two.json", ["x/../a.jpg"], [car, dog, annotation(1, [2, 2, 6, 6], iscrowd=1)], folder=tmp_path)
    write(tmp_path / "three.json", ["a.jpg"])
    sets = {"train": ["one.json", "two.json", "three.json"]}
    a, b = read_coco(tmp_path, sets=sets, problems=Problems(strict=True)).splits["train"]
    assert (a.id, b.id) == ("a", "b")
    assert a.boxes.tolist() == [[1, 1, 6, 6], [1, 1, 6, 6], [2, 2, 8, 8]]
    assert a.labels.tolist() == [1, 0, 1]
    assert a.difficult.tolist() == [False, False, True]
    assert len(a.truncated) == 3
    assert not len(b.boxes)


def test_a_json_that_names_an_image_twice_has_it_once(tmp_path: Path) -> None:
    path = write(tmp_path / "all.json", ["a.jpg", "x/../a.jpg"], [
        annotation(1, [1, 1, 5, 5]), annotation(2, [2, 2, 6, 6])])
    record, = read_coco(path, problems=Problems(strict=True)).splits["train"]
    assert record.boxes.tolist() == [[1, 1, 6, 6], [2, 2, 8, 8]]


def test_an_image_of_two_sizes_is_set_aside(tmp_path: Path) -> None:
    write(tmp_path / "one.json", ["a.jpg", "b.jpg"])
    write(tmp_path / "two.json", ["a.jpg"], images=[{"id": 1, "file_name": "a.jpg", "width": 41, "height": 30}])
    problems = Problems()
    found = read_coco(tmp_path, sets={"train": ["one.json", "two.json"]}, problems=problems)
    assert names_of(found) == {"train": ["b"]}
    message = f"{tmp_path / 'one.json'} gives it 40x30 pixels, {tmp_path / 'two.json'} 41x30"
    assert problems.found == [(str(tmp_path / "a.jpg"), message)]


def test_an_image_that_one_json_spoils_does_not_come_by_another(tmp_path: Path) -> None:
    write(tmp_path / "one.json", ["a.jpg", "b.jpg"], [annotation(1, [1, 1, 5, 5])])
    write(tmp_path / "two.json", ["a.jpg"], [annotation(1, [30, 1, 20, 5])])
    problems = Problems()
    found = read_coco(tmp_path, sets={"train": ["one.json", "two.json"]}, problems=problems)
    assert (names_of(found), problems.set_aside) == ({"train": ["b"]}, 1)
    write(tmp_path / "two.json", ["x/../a.jpg"], [annotation(1, [30, 1, 20, 5])])
    assert names_of(read_coco(tmp_path, sets={"train": ["one.json", "two.json"]}, problems=Problems())) == {
        "train": ["b"]}


@pytest.mark.parametrize("splits", [["train", "test"], ["test", "train"]])
def test_an_image_that_a_json_of_another_split_spoils_stays(tmp_path: Path, splits: list[str]) -> None:
    write(tmp_path / "train.json", ["a.jpg", "b.jpg"], [annotation(1, [30, 1, 20, 5])])
    write(tmp_path / "test.json", ["a.jpg"], [annotation(1, [1, 1, 5, 5])])
    problems = Problems()
    found = read_coco(tmp_path, sets={split: [f"{split}.json"] for split in splits}, problems=problems)
    assert names_of(found) == {split: {"train": ["b"], "test": ["a"]}[split] for split in splits}


def test_annotations_of_no_image_are_listed(tmp_path: Path) -> None:
    path = write(tmp_path / "all.json", ["a.jpg"], [annotation(7, [1, 1, 5, 5]), annotation(7, [1, 1, 5, 5])])
    problems = Problems()
    assert names_of(read_coco(path, problems=problems)) == {"train": ["a"]}
    assert problems.found == [(str(path), "2 annotations are of image_id 7, which no image has")]
    assert problems.set_aside == 0


def test_a_class_list_of_ones_own(tmp_path: Path) -> None:
    path = write(tmp_path / "all.json", ["a.jpg", "b.jpg"], [
        annotation(1, [1, 1, 5, 5], 3), annotation(2, [1, 1, 5, 5], 18)])
    problems = Problems()
    found = read_coco(path, classes=["dog"], problems=problems)
    assert names_of(found) == {"train": ["b"]}
    assert "class 'car' is not in the class list (dog)" in problems.found[0].message
