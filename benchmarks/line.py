"""The `voc` profile on this machine: does every step of the paper's setting run, and what does it take?

At 512 px with twenty classes, on ten real VOC images (two to evaluate on): training steps of hourglass104 and
resnet50, a dump of eight views from both, their ensemble, distillation steps of each of the four students from
those stores, and the evaluation of all six networks. It runs the commands that a person runs, each in a process of
its own, so that its peak memory is its own. The networks start from random weights: time and memory alone are
measured.

    make bench-line VOC=/path/to/any/VOC/folder

There are no targets: the rows say what the setting costs here.
"""

import csv
import os
import shutil
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter

from common import Row, peak_memory, record

TEACHERS = ("resnet50", "hourglass104")
STUDENTS = ("resnet18", "resnet34", "mobilenet_v2", "efficientnet_b0")
RECIPE = "resnet50+hourglass104"
IMAGES, BATCH = 8, 2
#: The paper's setting but for the number of images, passes and views, and weights that need a download.
SMALL = ["data.source={source}", "views.per_image=1", "views.shard_views=8",
         "dump.batch=2", "dump.shard_views=8", *(f"students.{name}.pretrained=false" for name in STUDENTS),
         "teachers.resnet50.pretrained=false"]
TRAIN = [f"batch={BATCH}", "epochs=2", "log_every=1", "workers=0"]


def main() -> None:
    if not os.environ.get("VOC"):
        sys.exit("Error: name a VOC folder: make bench-line VOC=/path/to/folder")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = take_images(Path(os.environ["VOC"]), folder / "source")
        pipeline(folder, "profile", "voc")
        small = [f"--set={change.format(source=source)}" for change in SMALL]
        rows = [*whole(folder, "prepare", "prepare", *small), *whole(folder, "views", "record-views", *small)]
        for teacher in TEACHERS:
            train = [f"--set=teachers.{teacher}.train={{{', '.join(TRAIN).replace('=', ': ')}}}"]
            rows += steps(folder, Path("models/teachers", teacher), f"train {teacher}", "train-teacher", teacher,
                          *small, *train)
        for teacher in TEACHERS:
            rows += [*whole(folder, f"dump {teacher}, {IMAGES} views", "dump-teachers", teacher, *small),
                     size(folder, f"targets/{teacher}.zarr")]
        rows += [*whole(folder, "ensemble", "build-ensemble", *small), size(folder, "targets/ensemble-both.zarr")]
        for student in STUDENTS:
            train = [f"--set=distill.train.{change}" for change in TRAIN]
            rows += steps(folder, Path("models/students", student, RECIPE, "seed0"), f"distill {student}",
                          "distill", f"--student={student}", f"--recipe={RECIPE}", *small, *train)
        rows += whole(folder, "evaluate two teachers and four students on 2 images", "evaluate", *small)
    record("line", rows, size=[512, 512], classes=20, batch=BATCH)


def take_images(voc: Path, out: Path) -> Path:
    """The first images of a VOC folder, as a folder of their own: train and test."""
    annotations = sorted(voc.rglob("Annotations/*.xml"))[: IMAGES + 2]
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (out / part).mkdir(parents=True)
    for file in annotations:
        shutil.copy(file, out / "Annotations")
        shutil.copy(file.parents[1] / "JPEGImages" / f"{file.stem}.jpg", out / "JPEGImages")
    names = [file.stem for file in annotations]
    (out / "ImageSets/Main/train.txt").write_text("\n".join(names[:IMAGES]))
    (out / "ImageSets/Main/test.txt").write_text("\n".join(names[IMAGES:]))
    return out


def pipeline(folder: Path, *arguments: str) -> tuple[float, float]:
    """Runs one command; returns its seconds and its peak memory in GB."""
    print("pipeline", *(a for a in arguments if not a.startswith("--set")), file=sys.stderr, flush=True)
    start = perf_counter()
    memory = peak_memory([sys.executable, "-m", "pipeline", *arguments], folder)
    return perf_counter() - start, memory


def whole(folder: Path, name: str, *arguments: str) -> list[Row]:
    seconds, memory = pipeline(folder, *arguments)
    return [Row(f"{name}: s, whole command", seconds), Row(f"{name}: peak memory, GB", memory)]


def steps(folder: Path, model: Path, name: str, *arguments: str) -> list[Row]:
    """Seconds of a training step, from the run's own log; the first step warms up."""
    _, memory = pipeline(folder, *arguments)
    with (folder / model / "log.csv").open() as file:
        clock = [float(row["seconds"]) for row in csv.DictReader(file)]
    taken = [later - earlier for earlier, later in pairwise(clock)]
    first, _, third = quantiles(taken, n=4)
    return [Row(f"{name}: s per step of {BATCH} images", median(taken), None, (third - first) / 2, len(taken)),
            Row(f"{name}: peak memory, GB", memory)]


def size(folder: Path, store: str) -> Row:
    total = sum(file.stat().st_size for file in (folder / store).rglob("*") if file.is_file())
    return Row(f"{store}: kB per view", total / IMAGES / 1e3)


if __name__ == "__main__":
    main()
