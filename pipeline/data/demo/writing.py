"""Writes the demo scenes in VOC layout."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.data.dataset import ImageRecord
from pipeline.data.demo.artwork import CLASSES, STRIPS, backgrounds, drawings, require_packages, scenery
from pipeline.data.demo.scenes import Material, SceneObject, compose
from pipeline.data.voc_xml import write_annotation
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
            path = out / "JPEGImages" / f"{name}.jpg"
            Image.fromarray(image).save(path, quality=JPEG_QUALITY)
            write_annotation(out / "Annotations" / f"{name}.xml", _record(path, image.shape[:2], objects), CLASSES)
            done += 1
            if progress:
                progress(done, sum(counts.values()))
        (out / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))


def _record(path: Path, size_hw: Sequence[int], objects: list[SceneObject]) -> ImageRecord:
    boxes = np.array([one.box for one in objects]).reshape(-1, 4) - (1, 1, 0, 0)
    return ImageRecord(
        id=path.stem, path=path, width=size_hw[1], height=size_hw[0], boxes=boxes.astype(np.float32),
        labels=np.array([CLASSES.index(one.name) for one in objects], np.int64),
        difficult=np.array([one.difficult for one in objects], np.bool_),
        truncated=np.array([one.truncated for one in objects], np.bool_))
