"""load_data takes what prepare wrote, and nothing else."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
                                               ('{"format": 2}', "has format 2, expected 1")])
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
