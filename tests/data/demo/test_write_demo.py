"""The embedded data set: its layout, its annotations, its determinism, its splits."""

import hashlib
import importlib.util
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from pipeline.data.demo import CLASSES, LICENCE, write_demo
from pipeline.data.demo.artwork import DRAWINGS, STRIPS, backgrounds, drawings, scenery
from pipeline.data.demo.scenes import Material, compose
from pipeline.errors import UserError
from pipeline.params import DemoScenes

VOC = {"aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
       "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
       "tvmonitor"}
FEW = DemoScenes(train=12, val=4, test=4, unseen=4)


def material(split: str) -> Material:
    return Material(drawings(split), scenery(), backgrounds(split))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out: Path = tmp_path_factory.mktemp("demo")
    write_demo(FEW, out)
    return out


def digest(folder: Path, pattern: str) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.glob(pattern))}


def test_classes_are_voc_names_with_enough_drawings() -> None:
    assert set(CLASSES) <= VOC
    assert len(CLASSES) >= 6
    for seen, unseen in DRAWINGS.values():
        assert len(seen.split()) >= 4
        assert unseen.split()
        assert not set(seen.split()) & set(unseen.split())


def test_backgrounds_of_train_val_and_test_do_not_meet() -> None:
    ends = [STRIPS[split] for split in ("train", "val", "test")]
    assert all(before[1] <= after[0] for before, after in pairwise(ends))


def test_every_listed_image_has_a_picture_and_an_annotation(demo: Path) -> None:
    for split in STRIPS:
        names = (demo / "ImageSets" / "Main" / f"{split}.txt").read_text().split()
        assert len(names) == getattr(FEW, split)
        for name in names:
            image = cv2.imread(str(demo / "JPEGImages" / f"{name}.jpg"))
            assert image is not None
            assert image.shape == (*FEW.size, 3)
            root = ElementTree.parse(demo / "Annotations" / f"{name}.xml").getroot()
            assert root.findtext("filename") == f"{name}.jpg"
            assert root.findtext("size/width") == str(FEW.size[1])
            objects = root.findall("object")
            assert 1 <= len(objects) <= FEW.objects[1]
            for node in objects:
                assert node.findtext("name") in CLASSES
                x1, y1, x2, y2 = (int(node.findtext(f"bndbox/{key}") or 0)
                                  for key in ("xmin", "ymin", "xmax", "ymax"))
                assert 1 <= x1 <= x2 <= FEW.size[1]
                assert 1 <= y1 <= y2 <= FEW.size[0]


def test_the_same_params_give_the_same_bytes_and_more_scenes_keep_the_first(
        demo: Path, tmp_path: Path) -> None:
    write_demo(FEW.model_copy(update={"train": 5}), tmp_path)
    for folder, pattern in (("JPEGImages", "*.jpg"), ("Annotations", "*.xml")):
        again = digest(tmp_path / folder, pattern)
        first = digest(demo / folder, pattern)
        assert len(again) == 5 + 12
        assert again.items() <= first.items()


def test_another_seed_gives_other_scenes(demo: Path, tmp_path: Path) -> None:
    write_demo(DemoScenes(train=2, val=1, test=1, unseen=1, seed=1), tmp_path)
    assert not digest(tmp_path / "JPEGImages", "*.jpg").items() & digest(demo / "JPEGImages", "*.jpg").items()


def test_progress_counts_all_scenes(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    write_demo(DemoScenes(train=2, val=1, test=1, unseen=1), tmp_path, lambda *at: seen.append(at))
    assert seen == [(done, 5) for done in range(1, 6)]


def test_flags_and_counts_vary_as_asked() -> None:
    params = DemoScenes(size=(96, 128), objects=(1, 3), difficult=0.2)
    train = material("train")
    scenes = [compose(params, train, np.random.default_rng([0, index])) for index in range(150)]
    assert all(image.shape == (96, 128, 3) and image.dtype == np.uint8 for image, _ in scenes)
    objects = [one for _, found in scenes for one in found]
    assert {len(found) for _, found in scenes} == {1, 2, 3}
    assert {one.name for one in objects} == set(CLASSES)
    assert 0.08 < np.mean([one.difficult for one in objects]) < 0.35
    assert 0.1 < np.mean([one.truncated for one in objects]) < 0.6
    at_border = [one for one in objects if one.box[0] == 1 or one.box[2] == 128]
    assert any(one.truncated for one in at_border)


def test_the_box_is_tight_around_what_is_visible() -> None:
    """The one object of a clean scene differs from the same scene without it inside its box alone."""
    params = DemoScenes(size=(96, 96), objects=(1, 1), difficult=0.0)
    train = material("train")
    for index in range(10):
        image, (one,) = compose(params, train, np.random.default_rng([1, index]))
        x1, y1, x2, y2 = one.box
        assert max(x2 - x1, y2 - y1) + 1 >= 0.1 * 96
        assert image[y1 - 1:y2, x1 - 1:x2].std() > 0


def test_licence_names_artwork_and_its_licence() -> None:
    assert "OpenMoji" in LICENCE
    assert "CC BY-SA 4.0" in LICENCE


def test_a_missing_package_is_named_with_the_way_to_get_it(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec",
                        lambda name, *rest: None if name == "resvg_py" else found(name, *rest))
    with pytest.raises(UserError, match=r"resvg-py: pip install 'centernet-distill\[demo\]'"):
        write_demo(FEW, tmp_path / "out")
    assert not (tmp_path / "out").exists()
