"""VOC comes by torchvision's own code, and only what is missing."""

import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torchvision.datasets.voc as torchvision_voc

from pipeline.data.download import download_voc
from pipeline.data.sources import Problems
from pipeline.data.voc import read_voc
from pipeline.errors import UserError


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch, voc_folder: Callable[..., Any]) -> list[tuple[str, Path]]:
    """Stands in for the network below torchvision: 'unpacks' the archive that a URL names."""
    calls: list[tuple[str, Path]] = []

    def unpack(url: str, root: Path, filename: str, md5: str) -> None:
        calls.append((url.rpartition("/")[2], Path(root)))
        year = "2012" if "2012" in filename else "2007"
        split = "test" if "test" in filename else "trainval"
        folder = voc_folder(Path(root) / f"VOCdevkit/VOC{year}")
        folder.add(f"{year}_{split}", split=split, objects=[("dog", (1, 1, 9, 9))])

    monkeypatch.setattr(torchvision_voc, "download_and_extract_archive", unpack)
    return calls


ARCHIVES = ["VOCtrainval_06-Nov-2007.tar", "VOCtrainval_11-May-2012.tar", "VOCtest_06-Nov-2007.tar"]


@pytest.mark.parametrize("source", ["voc", "voc/VOCdevkit"])
def test_all_that_is_missing_is_fetched_once(
        tmp_path: Path, fetched: list[tuple[str, Path]], source: str) -> None:
    for _ in range(2):
        download_voc(tmp_path / source, None)
        assert fetched == [(name, tmp_path / "voc") for name in ARCHIVES]
    found = read_voc(tmp_path / source, problems=Problems(strict=True))
    assert {split: len(records) for split, records in found.splits.items()} == {"train": 2, "test": 1}


@pytest.mark.parametrize("lost", ["JPEGImages/2007_test.jpg", "Annotations/2007_test.xml", "ImageSets/Main/test.txt"])
def test_what_was_unpacked_in_part_is_fetched_again(
        tmp_path: Path, fetched: list[tuple[str, Path]], lost: str) -> None:
    sets = {"train": ["2007_trainval"], "test": ["2007_test"]}
    download_voc(tmp_path, sets)
    (tmp_path / "VOCdevkit/VOC2007" / lost).unlink()
    download_voc(tmp_path, sets)
    assert [name for name, _ in fetched] == [ARCHIVES[0], ARCHIVES[2], ARCHIVES[2]]


def test_sets_say_what_is_fetched(tmp_path: Path, fetched: list[tuple[str, Path]]) -> None:
    download_voc(tmp_path / "VOCdevkit", {"train": ["2012_trainval"]})
    assert [name for name, _ in fetched] == ARCHIVES[1:2]


def test_no_network_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise urllib.error.URLError("Name or service\nnot known")

    monkeypatch.setattr(torchvision_voc, "download_and_extract_archive", unreachable)
    message = r"data\.download: VOC2007 trainval could not be fetched into .*not known"
    with pytest.raises(UserError, match=message) as caught:
        download_voc(tmp_path / "voc", None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["1999_trainval", "trainval", "2012_everything"])
def test_sets_that_voc_does_not_have(tmp_path: Path, fetched: list[tuple[str, Path]], name: str) -> None:
    with pytest.raises(UserError, match=r"data\.download: .*could not be fetched"):
        download_voc(tmp_path, {"train": [name]})
    assert not fetched
