"""Builders of small data sets in VOC layout."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Box = tuple[float, float, float, float]


class VocFolder:
    """A folder in VOC layout that grows image by image."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (root / name).mkdir(parents=True, exist_ok=True)

    def add(self, name: str, *, split: str | Sequence[str] = "train", objects: Sequence[tuple[str, Box]] = (),
            size: tuple[int, int] = (40, 30), suffix: str = ".jpg", xml: str | None = None) -> Path:
        """Adds an image of (width, height) with objects, boxes as VOC's xmin ymin xmax ymax."""
        image = self.root / "JPEGImages" / f"{name}{suffix}"
        pixels = np.random.default_rng(list(name.encode())).integers(0, 256, (size[1], size[0], 3), np.uint8)
        Image.fromarray(pixels).save(image)
        self.annotate(name, voc_xml(objects, size, image.name) if xml is None else xml)
        for one in [split] if isinstance(split, str) else split:
            self.list(name, one)
        return image

    def annotate(self, name: str, xml: str) -> None:
        (self.root / "Annotations" / f"{name}.xml").write_text(xml)

    def list(self, name: str, split: str) -> None:
        with (self.root / "ImageSets" / "Main" / f"{split}.txt").open("a") as file:
            file.write(f"{name}\n")


def voc_xml(objects: Sequence[tuple[str, Box]], size: tuple[int, int] = (40, 30), filename: str = "") -> str:
    nodes = "".join(
        f"<object><name>{name}</name><truncated>0</truncated><difficult>0</difficult><bndbox>"
        f"<xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for name, (x1, y1, x2, y2) in objects)
    return (f"<annotation><filename>{filename}</filename><size><width>{size[0]}</width>"
            f"<height>{size[1]}</height><depth>3</depth></size>{nodes}</annotation>")


@pytest.fixture
def voc_folder(tmp_path: Path) -> Callable[[str], VocFolder]:
    """Makes an empty folder in VOC layout below tmp_path."""
    return lambda name="source": VocFolder(tmp_path / name)


@pytest.fixture(name="voc_xml")
def voc_xml_fixture() -> Callable[..., str]:
    """The XML of objects in an image of (width, height)."""
    return voc_xml
