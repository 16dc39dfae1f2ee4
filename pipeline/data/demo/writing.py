"""Writes the demo scenes in VOC layout."""

from collections.abc import Callable, Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from pipeline.data.demo.artwork import STRIPS, backgrounds, drawings, require_packages, scenery
from pipeline.data.demo.scenes import Material, SceneObject, compose
from pipeline.params import DemoScenes

JPEG_QUALITY = 92


def write_demo(params: DemoScenes, out: Path, progress: Callable[[int, int], None] | None = None) -> None:
    """Composes all splits into `out`: JPEGImages, Annotations and ImageSets/Main.

    A scene depends on the seed, its split and its number alone, so that more scenes leave the
    earlier ones as they are.

    Args:
        params: how many scenes of what.
        out: folder that is filled; made where it is missing.
        progress: called with (scenes done, scenes in all).

    Raises:
        UserError: a package of the extra `demo` is not installed.
    """
    require_packages()
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    counts = {split: getattr(params, split) for split in STRIPS}
    done = 0
    for number, (split, count) in enumerate(counts.items()):
        material = Material(drawings(split), scenery(), backgrounds(split))
        names = [f"{split}_{index:06d}" for index in range(count)]
        for index, name in enumerate(names):
            image, objects = compose(params, material, np.random.default_rng([params.seed, number, index]))
            Image.fromarray(image).save(out / "JPEGImages" / f"{name}.jpg", quality=JPEG_QUALITY)
            annotation = _annotation(name, image.shape[:2], objects)
            annotation.write(out / "Annotations" / f"{name}.xml", encoding="utf-8")
            done += 1
            if progress:
                progress(done, sum(counts.values()))
        (out / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))


def _annotation(name: str, size_hw: Sequence[int], objects: list[SceneObject]) -> ElementTree.ElementTree:
    root = ElementTree.Element("annotation")
    _fields(root, folder="demo", filename=f"{name}.jpg")
    _fields(ElementTree.SubElement(root, "source"), database="centernet-distill demo",
            annotation="composed", image="openmoji, scikit-image")
    _fields(ElementTree.SubElement(root, "size"), width=size_hw[1], height=size_hw[0], depth=3)
    _fields(root, segmented=0)
    for one in objects:
        node = ElementTree.SubElement(root, "object")
        _fields(node, name=one.name, pose="Unspecified", truncated=int(one.truncated),
                difficult=int(one.difficult))
        box = dict(zip(("xmin", "ymin", "xmax", "ymax"), one.box, strict=True))
        _fields(ElementTree.SubElement(node, "bndbox"), **box)
    ElementTree.indent(root)
    return ElementTree.ElementTree(root)


def _fields(node: ElementTree.Element, **values: object) -> None:
    for key, value in values.items():
        ElementTree.SubElement(node, key).text = str(value)
