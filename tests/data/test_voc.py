"""VOC: devkits and folders give their splits; bad files are named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.data.coco import read_coco
from pipeline.data.images import BadFile
from pipeline.data.sources import Found, Problems
from pipeline.data.voc import CLASSES, read_voc
from pipeline.errors import UserError

Make = Callable[..., Any]


def names_of(found: Found) -> dict[str, list[str]]:
    return {split: [record.id for record in records] for split, records in found.splits.items()}


def devkit(voc_folder: Make, year: str, *, base: str = "VOCdevkit", prefix: str = "") -> Any:
    """A year with train, val, trainval and the lists of one class."""
    folder = voc_folder(f"{base}/VOC{year}")
    for index in range(4):
        folder.add(f"{prefix}{index}", split=["train" if index < 2 else "val", "trainval"],
                   objects=[("dog", (1, 1, 9, 9))])
        folder.list(f"{prefix}{index} -1", "dog_train")
    return folder


def test_the_union_of_07_and_12(tmp_path: Path, voc_folder: Make) -> None:
    devkit(voc_folder, "2007").add("test", split="test", objects=[("cat", (1, 1, 9, 9))])
    devkit(voc_folder, "2012", prefix="2007_00").add("test12", split="test")
    given_sets = {"train": ["2007_trainval", "2012_trainval"], "test": ["2007_test"]}
    explicit = read_voc(tmp_path / "VOCdevkit", sets=given_sets, problems=Problems(strict=True))
    assert names_of(explicit) == {
        "train": ["0", "1", "2", "3", "2007_000", "2007_001", "2007_002", "2007_003"], "test": ["test"]}
    assert explicit.classes == CLASSES
    assert explicit.splits["test"][0].labels.tolist() == [CLASSES.index("cat")]
    for source in (tmp_path, tmp_path / "VOCdevkit"):  # a devkit or the folder it is in; no sets: the same
        found = read_voc(source, problems=Problems(strict=True))
        assert names_of(found) == names_of(explicit)
        assert found.sets == given_sets


def test_a_single_year_may_be_the_source(tmp_path: Path, voc_folder: Make) -> None:
    devkit(voc_folder, "2012")
    found = read_voc(tmp_path / "VOCdevkit" / "VOC2012", problems=Problems(strict=True))
    assert names_of(found) == {"train": ["0", "1", "2", "3"]}


def test_a_year_without_trainval_keeps_its_val(tmp_path: Path, voc_folder: Make) -> None:
    folder = devkit(voc_folder, "2012")
    (folder.root / "ImageSets/Main/trainval.txt").unlink()
    found = read_voc(tmp_path, problems=Problems(strict=True))
    assert names_of(found) == {"train": ["0", "1"], "val": ["2", "3"]}


def test_a_folder_has_its_own_classes_and_splits(tmp_path: Path, voc_folder: Make) -> None:
    folder = voc_folder("mine")
    for split, name in [("train", "zebra"), ("val", "apple"), ("test", "zebra"), ("night", "car")]:
        folder.add(f"{split}_1", split=[split, "trainval"] if split in ("train", "val") else split,
                   objects=[(name, (1, 1, 9, 9))], suffix=".png")
    folder.list("train_1 1", "zebra_train")
    found = read_voc(tmp_path / "mine", problems=Problems(strict=True))
    assert found.classes == ("apple", "car", "zebra")
    assert names_of(found) == {split: [f"{split}_1"] for split in ("night", "test", "train", "val")}
    assert found.splits["night"][0].labels.tolist() == [1]
    assert found.splits["val"][0].path == folder.root / "JPEGImages" / "val_1.png"


@pytest.mark.parametrize("lists", [["trainval"], ["train", "trainval"]])
def test_trainval_is_train_unless_there_are_both_parts(
        tmp_path: Path, voc_folder: Make, lists: list[str]) -> None:
    folder = voc_folder("mine")
    folder.add("a", split=lists)
    folder.add("b", split="trainval")
    (folder.root / "ImageSets/Main/val.txt").touch()  # an empty list is no split
    found = read_voc(tmp_path / "mine", problems=Problems(strict=True))
    assert names_of(found) == {"train": ["a", "b"]}


def test_sets_choose_lists(tmp_path: Path, voc_folder: Make) -> None:
    folder = voc_folder("mine")
    folder.add("a", split=["train", "all"])
    folder.add("b", split=["extra", "all"])
    folder.add("c", split="holdout")
    found = read_voc(tmp_path / "mine", sets={"train": ["train", "extra", "all"], "test": ["holdout"]},
                     problems=Problems(strict=True))
    assert names_of(found) == {"train": ["a", "b"], "test": ["c"]}
    with pytest.raises(UserError, match=r"data\.sets\.train: set 'trian' is unknown\. Did you mean 'train'"):
        read_voc(tmp_path / "mine", sets={"train": ["trian"]}, problems=Problems())


def test_an_image_belongs_to_one_split(tmp_path: Path, voc_folder: Make) -> None:
    voc_folder("mine").add("a", split=["train", "test"])
    with pytest.raises(UserError, match=r"names 'a' for train, but .*test\.txt has it in test"):
        read_voc(tmp_path / "mine", problems=Problems())


def test_sources_that_are_none(tmp_path: Path, voc_folder: Make) -> None:
    with pytest.raises(UserError, match=r"data\.source: .*nowhere does not exist"):
        read_voc(tmp_path / "nowhere", problems=Problems())
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"neither a VOCdevkit .*Main\)\.$"):
        read_voc(tmp_path / "empty", problems=Problems())
    folder = voc_folder("listless")
    with pytest.raises(UserError, match=r"listless has no ImageSets/Main/\*\.txt"):
        read_voc(folder.root, problems=Problems())
    (folder.root / "ImageSets/Main/train.txt").write_bytes(b"\xff\xfe\0")
    with pytest.raises(UserError, match="not a text file in UTF-8"):
        read_voc(folder.root, problems=Problems())


@pytest.mark.parametrize(("sets", "fetched"), [
    (None, True), ({"train": ["2007_trainval", "2012_train"], "test": ["2007_test"]}, True),
    ({"train": ["trainval"]}, False), ({"train": ["2013_trainval"]}, False)])
def test_a_source_that_is_not_there_may_be_fetched_if_it_is_pascal_voc(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sets: dict[str, list[str]] | None, fetched: bool) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        read_voc(Path("VOCdevkit"), sets=sets, problems=Problems())
    assert f"data.source: {tmp_path}/VOCdevkit does not exist; set data.source" in str(error.value)
    assert ("data.download to true" in str(error.value)) == fetched


@pytest.mark.parametrize(("files", "advice"), [
    (["all.json"], "set data.source to {folder}/all.json"),
    (["annotations/instances_train2017.json", "annotations/instances_val2017.json", "annotations/captions_val2017.json",
      "annotations/image_info_test2017.json"],
     "if its 2 json files are COCO's, such as {{train: annotations/instances_train2017.json, "
     "test: annotations/instances_val2017.json}}."),
    (["train/_annotations.coco.json", "valid/_annotations.coco.json", "test/_annotations.coco.json"],
     "{{train: train/_annotations.coco.json, val: valid/_annotations.coco.json, test: test/_annotations.coco.json}}."),
    (["b.json", "a.json"], "such as {{train: a.json}}."),
    (["a.json", "mytest.json"], "such as {{train: a.json, test: mytest.json}}."),
    (["test.json", "val.json"], "such as {{train: test.json}}."),
])
def test_a_folder_of_jsons_says_what_sets_would_be(tmp_path: Path, files: list[str], advice: str) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    for read in (read_voc, read_coco):
        with pytest.raises(UserError) as error:
            read(tmp_path, problems=Problems())
        assert advice.format(folder=tmp_path) in str(error.value)


def test_images_are_found_by_id_where_filename_is_stale(
        tmp_path: Path, voc_folder: Make, voc_xml: Make) -> None:
    folder = voc_folder("mine")
    folder.add("a", xml=voc_xml([], filename="b.jpg"))
    folder.add("b", xml=voc_xml([], filename=""))
    image = folder.add("other", split="test")
    folder.annotate("c", voc_xml([], filename="other.jpg"))
    folder.list("c", "train")
    (folder.root / "Annotations" / "other.xml").unlink()
    (folder.root / "ImageSets/Main/test.txt").unlink()
    found = read_voc(tmp_path / "mine", problems=Problems(strict=True))
    assert [record.path.name for record in found.splits["train"]] == ["a.jpg", "b.jpg", image.name]


def test_the_image_of_another_annotation_is_not_taken(tmp_path: Path, voc_folder: Make, voc_xml: Make) -> None:
    folder = voc_folder("mine")
    folder.add("a", split="test")
    folder.add("b", xml=voc_xml([], filename="a.jpg")).unlink()
    problems = Problems()
    assert names_of(read_voc(folder.root, problems=problems)) == {"test": ["a"], "train": []}
    problem, = problems.found
    assert problem.file == str(folder.root / "JPEGImages/b.jpg")
    assert "its <filename>, a.jpg, has an annotation of its own" in problem.message


def test_an_image_of_two_annotations_is_set_aside(tmp_path: Path, voc_folder: Make, voc_xml: Make) -> None:
    folder = voc_folder("mine")
    folder.add("good")
    folder.add("x", split=[])
    (folder.root / "Annotations/x.xml").unlink()
    for name, split in (("a", "train"), ("b", "test")):
        folder.annotate(name, voc_xml([], filename="x.jpg"))
        folder.list(name, split)
    problems = Problems()
    assert names_of(read_voc(folder.root, problems=problems)) == {"test": [], "train": ["good"]}
    assert sorted(Path(problem.file).name for problem in problems.found) == ["a.xml", "b.xml"]
    assert all("x.jpg, and so is" in problem.message for problem in problems.found)


def test_images_in_subfolders_are_found(tmp_path: Path, voc_folder: Make, voc_xml: Make) -> None:
    folder = voc_folder("mine")
    for name, filename in (("s/a", "a.jpg"), ("s/b", "s/b.jpg"), ("s/c", ""), ("a", "a.jpg")):
        for part in ("JPEGImages", "Annotations"):
            (folder.root / part / name).parent.mkdir(exist_ok=True)
        folder.add(name, xml=voc_xml([], filename=filename))
    found = read_voc(folder.root, problems=Problems(strict=True)).splits["train"]
    assert [record.path for record in found] == [
        folder.root / f"JPEGImages/{name}.jpg" for name in ("s/a", "s/b", "s/c", "a")]


def test_what_lies_beside_an_image_is_not_taken_for_it(tmp_path: Path, voc_folder: Make, voc_xml: Make) -> None:
    folder = voc_folder("mine")
    folder.add("a", suffix=".PNG", xml=voc_xml([]))
    folder.add("b", xml=voc_xml([])).unlink()
    for name in ("a", "b"):
        (folder.root / f"JPEGImages/{name}.json").write_text("{}")
    problems = Problems()
    record, = read_voc(folder.root, problems=problems).splits["train"]
    assert record.path.name == "a.PNG"
    assert problems.found == [(str(folder.root / "JPEGImages/b.jpg"), "the image does not exist")]


def test_bad_files_are_set_aside_and_listed(tmp_path: Path, voc_folder: Make, voc_xml: Make) -> None:
    folder = voc_folder("VOCdevkit/VOC2012")
    folder.add("good", objects=[("dog", (1, 1, 9, 9))])
    folder.add("broken", xml="<annotation>")
    folder.add("bomb", xml='<!DOCTYPE a [<!ENTITY x "ha">]><annotation>&x;</annotation>')
    folder.add("outside", objects=[("dog", (1, 1, 99, 9))])
    folder.add("unicorn", objects=[("unicorn", (1, 1, 9, 9))])
    folder.list("ghost", "train")
    folder.add("imageless").unlink()
    problems = Problems()
    found = read_voc(tmp_path, problems=problems)
    assert names_of(found) == {"train": ["good"]}
    assert problems.set_aside == 6
    messages = {Path(problem.file).name: problem.message for problem in problems.found}
    assert set(messages) == {
        "broken.xml", "bomb.xml", "outside.xml", "unicorn.xml", "ghost.xml", "imageless.jpg"}
    assert "'unicorn' is not in the class list" in messages["unicorn.xml"]
    assert "train.txt names it" in messages["ghost.xml"]
    assert messages["imageless.jpg"] == "the image does not exist"
    with pytest.raises(BadFile, match=r"broken\.xml: it is not valid XML"):
        read_voc(tmp_path, problems=Problems(strict=True))


def test_a_set_that_counts_from_0_is_one_problem(tmp_path: Path, voc_folder: Make) -> None:
    folder = voc_folder("mine")
    folder.add("a", objects=[("dog", (1, 1, 9, 9))])
    folder.add("b", objects=[("dog", (0, 5, 9, 9)), ("dog", (0, 0, 9, 9)), ("dog", (1, 2, 9, 9))])
    folder.add("c", objects=[("dog", (5, 0, 9, 9))])
    problems = Problems()
    assert names_of(read_voc(folder.root, problems=problems)) == {"train": ["a", "b", "c"]}
    problem, = problems.found
    assert problem.file == str(folder.root / "Annotations/b.xml")
    assert problem.message.startswith("looks 0-based: ")
    assert "(boxes: 3, files: 2)" in problem.message
    assert problems.set_aside == 0


def test_a_class_list_of_ones_own(tmp_path: Path, voc_folder: Make) -> None:
    voc_folder("mine").add("a", objects=[("dog", (1, 1, 9, 9)), ("cat", (2, 2, 9, 9))])
    found = read_voc(tmp_path / "mine", classes=["dog", "cat"], problems=Problems(strict=True))
    assert found.classes == ("dog", "cat")
    assert found.splits["train"][0].labels.tolist() == [0, 1]


def test_progress_reaches_the_end(tmp_path: Path, voc_folder: Make) -> None:
    folder = voc_folder("mine")
    folder.add("a")
    folder.add("b")
    calls: list[tuple[int, int, str]] = []
    read_voc(tmp_path / "mine", problems=Problems(), progress=lambda *call: calls.append(call))
    assert calls == [(1, 2, "annotations"), (2, 2, "annotations")]
