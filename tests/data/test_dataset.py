"""load_data takes what prepare wrote, and nothing else."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.data.dataset import load_data
from pipeline.data.prepare import prepare
from pipeline.errors import UserError
from pipeline.params import Data


@pytest.fixture
def prepared(tmp_path: Path, voc_folder: Callable[..., Any]) -> Path:
    folder = voc_folder("source")
    for name in ("a", "b"):
        folder.add(name, objects=[("dog", (1, 1, 9, 9))])
    prepare(Data(name="mine", source=str(folder.root), val_fraction=0.0), tmp_path / "out")
    return tmp_path / "out"


def refused(root: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_data(root)
    message = str(caught.value)
    assert "\n" not in message
    assert "Run 'pipeline prepare'" in message
    return message


def test_folders_that_are_none(tmp_path: Path) -> None:
    assert "holds no prepared data" in refused(tmp_path / "none")
    assert "it has no manifest.json" in refused(tmp_path)
    (tmp_path / "file").touch()
    assert "holds no prepared data" in refused(tmp_path / "file")


@pytest.mark.parametrize(("content", "what"), [("{", "not valid JSON"), ("[]", "has format None, expected 1"),
                                               ('{"format": 2}', "has format 2, expected 1"),
                                               ('{"format": 1, "name": "x", "fingerprint": ""}', "has no 'splits'")])
def test_manifests_that_are_none(prepared: Path, content: str, what: str) -> None:
    (prepared / "manifest.json").write_text(content)
    assert what in refused(prepared)


def test_an_edited_annotations_file(prepared: Path) -> None:
    path = prepared / "annotations.json"
    tree = json.loads(path.read_text())
    tree["images"]["a"]["boxes"] = [[0, 0, 1, 1]]
    path.write_text(json.dumps(tree))
    assert "it changed after prepare" in refused(prepared)
    path.unlink()
    assert "annotations.json does not exist" in refused(prepared)


def test_missing_images(prepared: Path) -> None:
    (prepared / "JPEGImages/b.jpg").unlink()
    assert "b.jpg does not exist (1 of 2 images are missing)" in refused(prepared)


def test_objects_of_some_classes_alone(tmp_path: Path, voc_folder: Callable[..., Any]) -> None:
    folder = voc_folder("source")
    folder.add("a", objects=[("cat", (1, 1, 9, 9)), ("dog", (2, 2, 8, 8)), ("fox", (3, 3, 7, 7))])
    folder.add("b", objects=[("dog", (1, 1, 9, 9))])
    params = Data(name="mine", source=str(folder.root), val_fraction=0.0, classes=["cat", "dog", "fox"])
    prepare(params, tmp_path / "out")
    data = load_data(tmp_path / "out")
    some = data.of_classes(["fox", "cat"])
    assert some.classes == ("fox", "cat")
    first, second = sorted(some.records("train"), key=lambda record: record.id)
    assert [some.classes[label] for label in first.labels] == ["cat", "fox"]
    assert [box[0] for box in first.boxes.tolist()] == [0, 2]  # VOC counts pixels from 1
    assert (len(second.boxes), len(second.difficult), second.labelled) == (0, 0, True)
    for one, other in zip(data.of_classes(data.classes).records("train"), data.records("train"), strict=True):
        assert np.array_equal(one.boxes, other.boxes)
        assert np.array_equal(one.labels, other.labels)
    for lacking, classes in ((False, ["cat", "wolf"]), (True, ["wolf"])):
        with pytest.raises(UserError, match=r"data/mine: class 'wolf'.*cat"):
            data.of_classes(classes, lacking=lacking)
    assert data.of_classes(["wolf", "cat"], lacking=True).records("train")[0].labels.tolist() == [1]
