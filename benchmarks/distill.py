"""What does a student's step cost from the store: against ground truth alone, and against teachers in the step?

Every step is `engine.fit`'s own, loading included; the compared arms train for blocks of a few steps in turns, in one
process, and each ratio is of two blocks that stand beside each other. The teachers are not trained: time alone is
measured. (Maps of an untrained teacher are nowhere empty, so that reading them from a sparse store costs more than
those of a trained one.) The settings:

- 64 px: the demo's size, nets, batch and encodings, its images decoded once and kept in memory as there;
- 512 px: 20 classes, resnet50 and hourglass104 teach, batches of 4 from one loader process, the encodings of the
  profile `voc`;
- loading-bound: students of 64 px from JPEGs of 500x375, none of which is kept in memory, or from stored pixels.
  Composed scenes are smoother than photographs and get a grain, so that their files are as large as VOC's (85 kB).

    make bench-distill                       scenes of the embedded data set, composed at these sizes
    make bench-distill VOC=/path/to/folder   images of any VOC folder in the last two settings
    make bench-distill ROUNDS=1              one turn instead of 5, to see that it runs; not recorded
    make bench-distill ONLY=live             one part (64, 512, live, loading or students); each has its own record

About ten minutes on two cores with bfloat16, most of them hourglass104's. In float32 the part `live` alone takes more
than fourteen (add ROUNDS=1).

Targets: a step from the store takes at most 1.05 of the plain one with heads and 1.15 with features, .95 from stored
pixels where loading bounds it; one with live teachers at least 5 times as long; four students in one pass at most .85
of four runs.
"""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter

import numpy as np
from common import Row, record
from PIL import Image

from pipeline import paths
from pipeline.billing.planning import Question, student_arms
from pipeline.billing.rehearsal import rehearse
from pipeline.billing.steps import Arm, seconds_of_steps
from pipeline.data import DataSet, load_data
from pipeline.data.demo import write_demo
from pipeline.data.prepare import prepare
from pipeline.devices import lone_fabric, pick_device, suited_precision
from pipeline.engine import seed_everything
from pipeline.models import build_detector, save_detector
from pipeline.params import DemoScenes, Params, load_params, profiles, train_params
from pipeline.params.recipe import PLAIN
from stages import build_ensemble, distill, dump_teachers, record_views

ENOUGH = 5
ROUNDS = int(os.environ.get("ROUNDS") or ENOUGH)
STUDENT = "resnet18"
HEADS, FEATURES, LIVE = "heads offline", "features offline", "features live"
#: One teacher more or less changes a step from the store by its features alone.
SETTINGS = {"64 px": ("demo", "resnet50", "hourglass_small"), "512 px": ("voc", "resnet50", "hourglass104")}
JPEGS, GRAIN = [375, 500], 12.0
STUDENTS = [f"mobilenet_v2_{number}" for number in range(4)]


@dataclass(frozen=True)
class Setting:
    """Params, images and untrained teachers of one size."""

    params: Params
    data: DataSet
    images: int

    def arms(self, folder: Path, names: Sequence[str], **views: object) -> dict[str, Arm]:
        """The arms of a student from a small line in `folder`; `views` changes how views are kept."""
        folder.mkdir(parents=True)
        params = self.params.model_copy(update={"views": self.params.views.model_copy(update=views)})
        seed_everything(0)
        teachers = {name: build_detector(each.model, len(self.data.classes), **each.arch)
                    for name, each in params.teachers.items()}
        asked = Question(params, self.data, "train", [STUDENT], ["heads", "features"], teachers, list(teachers))
        small = rehearse(params, self.data, "train", self.images, teachers, ["both"], folder,
                         lone_fabric(params.dump.precision))
        arms = student_arms(asked, small, STUDENT)
        return {name: arms[name] for name in names}

    def measure(self, arms: Mapping[str, Arm], rounds: int, steps: int) -> dict[str, list[float]]:
        """Seconds of a step of each arm, in each round."""
        train = train_params(self.params.distill.train, self.params.students[STUDENT].train, "train")
        return seconds_of_steps(arms, train=train, fabric=lone_fabric(train.precision), rounds=rounds, steps=steps)


def main() -> None:
    parts = {"64": at_64, "512": at_512, "live": live_at_512, "loading": from_pixels, "students": in_one_pass}
    only = os.environ.get("ONLY")
    if only and only not in parts:
        sys.exit(f"ONLY={only}: expected one of {', '.join(parts)}.")
    with tempfile.TemporaryDirectory(prefix="bench-distill-") as name:
        for key, part in parts.items():
            if only in (None, "", key):
                record(f"distill-{key}", part(Path(name)), keep=ROUNDS >= ENOUGH, student=STUDENT, rounds=ROUNDS,
                       voc=bool(os.environ.get("VOC")) and key != "64", teachers="not trained: timing runs")


def at_64(folder: Path) -> list[Row]:
    say("64 px")
    setting = make_setting(folder / "64", "64 px", 96, ["data.demo.train=96"])
    taken = setting.measure(setting.arms(folder / "64/line", [PLAIN, HEADS, FEATURES]), ROUNDS, 20)
    return [seconds("64 px: plain, s a step of 16", taken[PLAIN]),
            ratio("64 px: from the store, heads / plain", taken, HEADS, PLAIN, "<= 1.05"),
            ratio("64 px: from the store, features / plain", taken, FEATURES, PLAIN, "<= 1.15")]


def at_512(folder: Path) -> list[Row]:
    setting, arms = dumped_at_512(folder)
    say("512 px: steps")
    taken = setting.measure({name: arms[name] for name in (PLAIN, HEADS, FEATURES)}, ROUNDS, 3)
    return [seconds("512 px: plain, s a step of 4", taken[PLAIN]),
            ratio("512 px: from the store, heads / plain", taken, HEADS, PLAIN, "<= 1.05"),
            ratio("512 px: from the store, features / plain", taken, FEATURES, PLAIN, "<= 1.15")]


def live_at_512(folder: Path) -> list[Row]:
    setting, arms = dumped_at_512(folder)
    say("512 px: live teachers")
    live = setting.measure({name: arms[name] for name in (FEATURES, LIVE)}, min(3, ROUNDS), 2)
    return [seconds("512 px: live resnet50 and hourglass104, s a step of 4", live[LIVE]),
            ratio("512 px: live teachers / from the store", live, LIVE, FEATURES, ">= 5")]


@cache
def dumped_at_512(folder: Path) -> tuple[Setting, dict[str, Arm]]:
    say("512 px: dumping")
    setting = make_setting(folder / "512", "512 px", 8, [
        *(images_of_voc() or ["data.source=demo", "data.demo.size=[512, 512]", "data.demo.train=8"]), "dump.batch=4",
        f"dump.precision={suited_precision(pick_device().type)}", "distill.train.batch=4", "distill.train.workers=1",
        *(f"{key}.pretrained=false" for key in (f"students.{STUDENT}", "teachers.resnet50"))])
    more = 20 - len(setting.data.classes)
    named = (*setting.data.classes, *(f"nothing-{number}" for number in range(more)))
    setting = replace(setting, data=replace(setting.data, classes=named))
    return setting, setting.arms(folder / "512/line", [PLAIN, HEADS, FEATURES, LIVE])


def from_pixels(folder: Path) -> list[Row]:
    say("loading-bound")
    folder = folder / "jpegs"
    setting = make_setting(folder, "64 px", 96, loading_bound(folder, 96))
    arms = setting.arms(folder / "jpegs", [PLAIN, FEATURES])
    arms = {"jpegs": arms[PLAIN], "jpegs taught": arms[FEATURES]}
    for form in ("raw", "jpeg"):
        stored = setting.arms(folder / form, [HEADS, FEATURES], image=form)
        arms |= {f"{form} {name}": arm for name, arm in stored.items()}
    taken = setting.measure(arms, ROUNDS, 10)
    rows = [seconds("500x375 JPEGs: plain, s a step of 16", taken["jpegs"]),
            ratio("500x375 JPEGs: features, images decoded / plain", taken, "jpegs taught", "jpegs")]
    for form, target in (("raw", "<= 0.95"), ("jpeg", None)):
        rows += [ratio(f"stored pixels ({form}): {what} / plain from JPEGs", taken, f"{form} {arm}", "jpegs", target)
                 for what, arm in (("heads", HEADS), ("features", FEATURES))]
    return rows


def in_one_pass(folder: Path) -> list[Row]:
    """`pipeline distill` with four students at once, and once for each."""
    say("four students")
    folder = folder / "together"
    detector = "{model: mobilenet_v2, arch: {deconv: [128, 64, 64]}}"
    students = [f"students.{name}={detector}" for name in STUDENTS]
    setting = make_setting(folder, "64 px", 160, [*loading_bound(folder, 160), *students])
    params, taken = of_steps(setting, 40), {"together": [], "alone": []}
    with inside(folder):
        record_views.run(params)
        for name, teacher in params.teachers.items():
            paths.teacher_model(name).mkdir(parents=True)
            save_detector(build_detector(teacher.model, len(setting.data.classes), **teacher.arch),
                          paths.weights(paths.teacher_model(name)), setting.data.classes)
        dump_teachers.run_all(params, [])
        build_ensemble.run(params, "both")
        for turn in range(1 + min(3, ROUNDS)):  # the first one warms up, with one student alone and two together
            for kind, groups in {"together": [STUDENTS], "alone": [[name] for name in STUDENTS]}.items():
                seed = 2 * turn + (kind == "alone")  # so that nothing is finished already
                start = perf_counter()
                for students in groups if turn else [groups[0][:2]]:
                    distill.run_all(params, students, ["features"], [seed])
                if turn:
                    taken[kind].append(perf_counter() - start)
    return [seconds("four mobilenet_v2, one after another: s of 4 x 40 steps", taken["alone"]),
            ratio("four mobilenet_v2 in one pass / four runs", taken, "together", "alone", "<= 0.85")]


def make_setting(folder: Path, size: str, images: int, changes: Sequence[str]) -> Setting:
    """Prepares the images in `folder`/data."""
    profile, *teachers = SETTINGS[size]
    recipe = f"teachers: [{', '.join(teachers)}], ensemble: both, weights"
    both = {"heads": [1000, 1, 0.1, 0], "features": [1000, 1, 0.1, 100]}
    few = [f"data.demo.{split}=1" for split in ("val", "test", "unseen")]
    params = load_params(Path(profiles.__file__).with_name(f"{profile}.yaml"), [
        *few, *changes, *(f"recipes.{name}={{{recipe}: {weights}}}" for name, weights in both.items())])
    out = folder / paths.data_folder(params.data.name)
    out.parent.mkdir(parents=True)
    prepare(params.data, out)
    data = load_data(out)
    return Setting(params, data, min(images, len(data.records("train"))))


def of_steps(setting: Setting, steps: int) -> Params:
    """The params, with runs of students so long."""
    chosen = setting.params.distill
    epochs = steps / (len(setting.data.records("train")) // chosen.train.batch)
    train = chosen.train.model_copy(update={"epochs": epochs})
    return setting.params.model_copy(update={"distill": chosen.model_copy(update={"train": train})})


def loading_bound(folder: Path, images: int) -> list[str]:
    """Images as large as VOC's, of which none stays in memory."""
    return [*(images_of_voc() or grained(folder / "grained", images)), "data.cache_mb=0"]


def grained(folder: Path, images: int) -> list[str]:
    """Scenes of VOC's size, in pixels and in bytes."""
    scenes = DemoScenes(train=images, val=1, test=1, unseen=1, size=tuple(JPEGS))
    write_demo(scenes, folder)
    rng = np.random.default_rng(0)
    for path in sorted((folder / "JPEGImages").iterdir()):
        pixels = np.asarray(Image.open(path)) + rng.normal(0, GRAIN, (*JPEGS, 1))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)
    return [f"data.source={folder.resolve()}", "data.format=voc"]


def images_of_voc() -> list[str]:
    """The folder that VOC names."""
    return [f"data.source={Path(os.environ['VOC']).resolve()}", "data.format=auto"] if os.environ.get("VOC") else []


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Stages work in the folder that they are run in, and say how far they are."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def seconds(name: str, values: Sequence[float]) -> Row:
    return Row(name, median(values), None, half_range(values), len(values))


def ratio(name: str, taken: Mapping[str, Sequence[float]], over: str, under: str, target: str | None = None) -> Row:
    """Of blocks of the same round."""
    values = [one / other for one, other in zip(taken[over], taken[under], strict=True)]
    return Row(name, median(values), target, half_range(values), len(values))


def half_range(values: Sequence[float]) -> float | None:
    """Half the distance between the quartiles."""
    if len(values) < 2:
        return None
    first, _, third = quantiles(values, n=4)
    return (third - first) / 2


if __name__ == "__main__":
    main()
