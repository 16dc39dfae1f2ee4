"""The bill before the work: a few steps of everything, measured, and what follows from them."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

from pipeline.billing.bill import Plan, StudentCost, Taught, deciding, images_of, stores_of
from pipeline.billing.live import LiveTeachers
from pipeline.billing.rehearsal import Rehearsal, images_needed, rehearse, views_each
from pipeline.billing.steps import AHEAD, Arm, seconds_of_steps
from pipeline.data.dataset import TRAIN
from pipeline.devices import device_name, lone_fabric
from pipeline.engine import seed_everything
from pipeline.inference.prediction import inference, predict
from pipeline.inference.sampling import FEWEST
from pipeline.models import build_detector, check_size, preprocess
from pipeline.params import Recipe, train_params
from pipeline.params.recipe import PLAIN

if TYPE_CHECKING:
    from pipeline.data import DataSet
    from pipeline.inform import Progress
    from pipeline.models import Detector
    from pipeline.params import Params, Train
    from pipeline.targets import Targets

#: Measured steps of a block, blocks of an arm at most, and seconds in which all blocks should be done.
STEPS, ROUNDS, BUDGET = 4, 5, 60.0


@dataclass(frozen=True)
class Question:
    """What is to be planned.

    Attributes:
        params: all of them.
        data: the data set.
        split: whose images have views, as `data.records` takes it.
        students: entries of `params.students`.
        recipes: entries of `params.recipes` that have teachers.
        teachers: a network for each teacher of the recipes.
        untrained: those that have no weights yet.
    """

    params: "Params"
    data: "DataSet"
    split: str
    students: Sequence[str]
    recipes: Sequence[str]
    teachers: Mapping[str, "Detector"]
    untrained: Sequence[str]

    @property
    def ensembles(self) -> list[str]:
        """Keys of the merged stores that the recipes need."""
        return list(dict.fromkeys(key for name in self.recipes if (key := self.params.recipes[name].merged)))

    @property
    def trains(self) -> dict[str, "Train"]:
        """The training block of each student."""
        return {name: train_params(self.params.distill.train, self.params.students[name].train,
                                   f"students.{name}.train") for name in self.students}


def make_plan(asked: Question, *, say: Callable[[str], None], progress: "Progress") -> Plan:
    """Measures in one process, in a temporary folder; says first about how long it will.

    Args:
        asked: what is to be planned.
        say: told how long it takes.
        progress: called with blocks done and in all.

    Raises:
        UserError: a network does not suit the data, the size of the views or the machine.
        StoreError: an encoding is unknown.
    """
    seed_everything(0)
    params, trains = asked.params, asked.trains
    device = lone_fabric(params.dump.precision).device
    students = {name: _network(asked, name) for name in asked.students}
    records, labelled = asked.data.records(asked.split), asked.data.records(TRAIN)
    images = images_needed(params, max(train.batch for train in trains.values()), len(labelled))
    rounds, seconds = _measuring(asked, students, images, device)
    say(f"plan: about {seconds:.0f} s of measuring: {', '.join(asked.teachers)} over {images * views_each(params)} "
        f"views, then {rounds} x {STEPS} steps each of {', '.join(asked.students)} plain, from the store and with live "
        "teachers")
    blocks = rounds * len(_arm_names(asked)) * len(students)
    done = 0

    def block_done() -> None:
        nonlocal done
        done += 1
        progress(done, blocks, "blocks of steps")

    with tempfile.TemporaryDirectory(prefix="plan-") as name:
        small = rehearse(params, asked.data, asked.split, images, asked.teachers, asked.ensembles, Path(name),
                         lone_fabric(params.dump.precision))
        costs = {}
        for student, train in trains.items():
            arms = student_arms(asked, small, student)
            taken = seconds_of_steps(arms, train=train, fabric=lone_fabric(train.precision), rounds=rounds,
                                     steps=STEPS, done=block_done)
            per_image = {name: median(taken[name]) / min(train.batch, len(arms[name].source)) for name in arms}
            shown = {recipe: images_of(params.recipes[recipe], asked.data) for recipe in asked.recipes}
            costs[student] = StudentCost(epochs=train.epochs, plain=per_image[PLAIN] * len(labelled), taught={
                recipe: Taught(offline=per_image[f"{recipe} offline"] * count, live=per_image[f"{recipe} live"] * count)
                for recipe, count in shown.items()})
    return Plan(
        deciding=deciding(params, asked.data, asked.students, asked.recipes), images=len(labelled),
        views=len(records) * params.views.per_image, size=params.views.size, device=device_name(device),
        untrained=list(asked.untrained),
        recipes={name: stores_of(params.recipes[name]) for name in asked.recipes},
        stores=small.costs, students=costs)


def student_arms(asked: Question, small: Rehearsal, student: str) -> dict[str, Arm]:
    """A student on ground truth alone, and under each recipe from the store and with live teachers."""
    size = asked.params.students[student].size
    plain = small.targets(asked.params, Recipe(), size)
    arms = {PLAIN: _arm(asked, small, student, plain, plain.on_device)}
    for recipe in asked.recipes:
        targets = small.targets(asked.params, asked.params.recipes[recipe], size)
        arms[f"{recipe} offline"] = _arm(asked, small, student, targets, targets.on_device)
        teachers = {name: asked.teachers[name] for name in targets.recipe.teachers}
        arms[f"{recipe} live"] = _arm(asked, small, student, replace(targets, arrays={}),
                                      LiveTeachers(teachers, targets, asked.params.dump), losses_of=targets)
    return arms


def _arm(asked: Question, small: Rehearsal, student: str, targets: "Targets",
         prepare: Callable[[dict[str, Any]], dict[str, Any]], losses_of: "Targets | None" = None) -> Arm:
    model = _network(asked, student)
    source = targets.source(seed=0, stride=model.config.stride, on_mismatch=asked.params.views.on_mismatch,
                            cache_mb=asked.params.data.cache_mb * small.share)

    def on_device(batch: dict[str, Any]) -> dict[str, Any]:
        return {**prepare(batch), "image": preprocess(batch["image"], model.config)}

    return Arm(model, source, (losses_of or targets).objective(model), on_device)


def _network(asked: Question, student: str) -> "Detector":
    detector = asked.params.students[student]
    model = build_detector(detector.model, len(asked.data.classes), **detector.arch)
    check_size(model.config, detector.size or asked.params.views.size)
    return model


def _arm_names(asked: Question) -> list[str]:
    return [PLAIN, *(f"{recipe} {how}" for recipe in asked.recipes for how in ("offline", "live"))]


def _measuring(asked: Question, students: Mapping[str, "Detector"], images: int,
               device: torch.device) -> tuple[int, float]:
    """How many rounds fit into the budget, and about how many seconds all of the measuring takes."""
    params, trains = asked.params, asked.trains
    forward = {name: _forward_seconds(teacher, params.views.size, params.dump.precision, device)
               for name, teacher in asked.teachers.items()}
    views = 4 * params.dump.batch + 2 * FEWEST + views_each(params) * images  # the plan, the dump's sample and the dump
    passes = {(1.0, False), *product(params.dump.tta.scales, (False, True)[:1 + params.dump.tta.flip])}
    dumps = views * sum(forward.values()) * sum(scale ** 2 for scale, _ in passes)
    a_round = 0.0
    for name, student in students.items():
        size = params.students[name].size or params.views.size
        of_view = 3 * _forward_seconds(student, size, "32-true", device)  # there, back and the weights
        live = sum(forward[teacher] for recipe in asked.recipes for teacher in params.recipes[recipe].teachers)
        steps = 1 + AHEAD * trains[name].workers + STEPS + 1
        a_round += steps * trains[name].batch * (len(_arm_names(asked)) * of_view + live)
    rounds = max(1, min(ROUNDS, int(BUDGET / a_round)))
    return rounds, dumps + rounds * a_round


def _forward_seconds(model: "Detector", size: tuple[int, int], precision: Any, device: torch.device) -> float:
    """Of one view; the first pass warms up."""
    images = torch.zeros(1, 3, *size, dtype=torch.uint8, device=device)
    seconds = 0.0
    with inference(model, device):
        for _ in range(2):
            start = perf_counter()
            predict(model, images, precision).heatmap.cpu()
            seconds = perf_counter() - start
    return seconds
