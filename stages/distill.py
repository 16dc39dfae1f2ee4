"""Stage `distill`: one student, one recipe, one seed, or many at once; it reads the store and loads no teacher."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import paths
from pipeline.errors import UserError
from stages import entry, inputs, training, work
from stages.views import recorded_views

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch import nn

    from pipeline.data.dataset import DataSet
    from pipeline.data.loading import Source
    from pipeline.data.recorded import RecordedViews
    from pipeline.models import Detector
    from pipeline.params import Params, Recipe
    from pipeline.targets import Targets


def run_all(params: "Params", students: Sequence[str] = (), recipes: Sequence[str] = (), seeds: Sequence[int] = (), *,
            devices: str = "auto", restart: bool = False) -> dict[str, Any]:
    """Trains every cell of students x recipes x seeds, in as few passes over the store as there can be.

    Everything is checked before any work. A student that stops (a loss that is NaN, no memory left) stops no
    other, and a pass that cannot be read stops no other pass.

    Args:
        students, recipes, seeds: those of `distill` where empty.
        devices: "auto" or a number of processes.
        restart: begin anew, and replace what other params or code left.

    Returns:
        {folder of a student: the summary of its run}.

    Raises:
        UserError: a name is unknown, a recipe needs its teachers in the step, a store is missing or does not fit, or
            a student is finished with another fingerprint; or, when all the others are finished, some have stopped.
    """
    names = dict.fromkeys(product(students or params.distill.students, recipes or params.distill.recipes,
                                  seeds or params.distill.seeds))
    for student, recipe, _ in names:
        inputs.named(params.students, student, "student")
        _store_paths(params, recipe)
    line = _Line(params)
    lessons = [line.lesson(*name) for name in names]
    if not restart:
        for lesson in lessons:
            training.refuse_another(lesson.cell)
    summaries: dict[str, Any] = {}
    stopped: list[str] = []
    for together in _passes(lessons):
        outcomes = _teach(params, together, devices, restart)
        for lesson, outcome in zip(together, outcomes, strict=True):
            if isinstance(outcome, UserError):
                stopped.append(f"{lesson.cell.stage}: {outcome}")
            else:
                summaries[str(lesson.cell.out)] = outcome
    if stopped:
        count = f"{len(stopped)} of {len(lessons)} students stopped. " if len(lessons) > 1 else ""
        raise UserError(count + " ".join(stopped))
    return summaries


def run(params: "Params", student: str, recipe: str, seed: int, *, devices: str = "auto",
        restart: bool = False, out: Path | None = None) -> dict[str, Any]:
    """Trains models/students/STUDENT/RECIPE/seedN (or `out`); returns the summary of the run."""
    return training.only(_teach(params, [lesson_of(params, student, recipe, seed, out=out)], devices, restart))


def finished(params: "Params", student: str, recipe: str, seed: int, folders: Iterable[Path]) -> Path | None:
    """The first of the folders that holds this very student, finished; None where none does."""
    return lesson_of(params, student, recipe, seed).found_in(folders)


def lesson_of(params: "Params", student: str, recipe: str, seed: int, *, out: Path | None = None) -> "Lesson":
    """One student; `out` in place of its folder under models/.

    Raises:
        UserError, StoreError: as of `run_all`.
    """
    return _Line(params).lesson(student, recipe, seed, out=out)


@dataclass(frozen=True)
class Lesson:
    """A cell and what it learns from, with the student's stride."""

    cell: training.Cell
    targets: "Targets"
    stride: int

    @property
    def batches(self) -> str:
        """What decides the batches and when a run speaks of them: cells that agree in it share a pass."""
        train = self.cell.train
        return json.dumps([self.targets.reads, self.stride, self.cell.seed, train.batch, train.epochs, train.workers,
                           train.log_every, train.checkpoint_minutes])

    def found_in(self, folders: Iterable[Path]) -> Path | None:
        """The first of the folders that holds this very student, finished."""
        return next((folder for folder in folders if replace(self.cell, out=folder).found == self.cell.fingerprint),
                    None)


class _Line:
    """What the line has made, opened once for all cells."""

    def __init__(self, params: "Params") -> None:
        self.params = params
        self.data: DataSet = inputs.prepared_data(params)
        self.opened: dict[tuple[str, tuple[int, int] | None], Targets] = {}

    def lesson(self, student: str, recipe: str, seed: int, *, out: Path | None = None) -> Lesson:
        from pipeline.models import check_size, detector_config
        from pipeline.params import Views, train_params

        detector = inputs.named(self.params.students, student, "student")
        train = train_params(self.params.distill.train, detector.train, f"students.{student}.train")
        targets = self._targets(recipe, detector.size)
        if not targets.recipe.taught and (targets.recipe.teachers or targets.recipe.oracle):
            work.say(f"Recipe {recipe!r} has W of zeros: {student} is trained on ground truth alone.")
        config = detector_config(detector.model, len(self.data.classes), **detector.arch)
        check_size(config, targets.size)

        def objective(fabric: "Fabric", model: "Detector") -> "nn.Module":
            from pipeline.engine import mean_over_ranks

            return targets.objective(model, mean_over_ranks(fabric))

        seen = (inputs.augmentation(targets.recorded) if isinstance(targets.recorded, Views)
                else targets.recorded.fingerprint)
        cell = training.Cell(
            stage=f"distill/{student}/{recipe}/seed{seed}", module="stages.distill",
            out=out or paths.student_model(student, recipe, seed), data=self.data, detector=detector, train=train,
            seed=seed, size_hw=targets.size, objective=objective,
            inputs={"views": seen, "recipe": inputs.values(targets.recipe), "stores": targets.contents,
                    "teachers": {teacher: targets.stores[teacher].spec.identity["weights"]
                                 for teacher in targets.recipe.teachers},
                    "flip": targets.flip})
        return Lesson(cell, targets, config.stride)

    @cached_property
    def recorded(self) -> "RecordedViews":
        """The recorded views; a recipe with fresh ones needs none."""
        return recorded_views(self.data, self.params.views)

    def _targets(self, recipe: str, size: tuple[int, int] | None) -> "Targets":
        from pipeline.data.dataset import UNLABELLED
        from pipeline.targets import open_targets

        if (recipe, size) not in self.opened:
            chosen = inputs.named(self.params.recipes, recipe, "recipe")
            inputs.refuse_live(recipe, chosen)
            recorded = self.params.views if chosen.views == "fresh" else self.recorded
            dumped = {teacher: inputs.dumped(self.params, teacher) for teacher in chosen.teachers}
            if chosen.merged:
                dumped[paths.ENSEMBLE] = inputs.named(self.params.ensembles, chosen.merged, "ensemble").identity
            self.opened[recipe, size] = open_targets(
                _store_paths(self.params, recipe), chosen, self.data, recorded, size=size,
                flip=self.params.distill.flip, dumped=dumped)
            if (others := len(self.data.splits.get(UNLABELLED, ()))) and not chosen.unlabelled:
                work.say(f"Recipe {recipe!r} leaves out the {others:,} images without labels.")
        return self.opened[recipe, size]


def _passes(lessons: Sequence[Lesson]) -> list[list[Lesson]]:
    """The lessons that share their batches, together, in the order of their first."""
    passes: dict[str, list[Lesson]] = {}
    for lesson in lessons:
        passes.setdefault(lesson.batches, []).append(lesson)
    return list(passes.values())


def _teach(params: "Params", lessons: Sequence[Lesson], devices: str,
           restart: bool) -> list[dict[str, Any] | UserError]:
    """One pass over the store."""
    first = lessons[0]

    def source() -> "Source":
        return first.targets.source(seed=first.cell.seed, stride=first.stride,
                                    on_mismatch=params.views.on_mismatch, cache_mb=params.data.cache_mb)

    return training.run([lesson.cell for lesson in lessons], source=source, prepare=first.targets.on_device,
                        devices=devices, restart=restart)


def _store_paths(params: "Params", recipe: str) -> dict[str, Path]:
    """Where the targets of a recipe lie: {"ensemble" or a teacher's name: store}."""
    chosen: Recipe = inputs.named(params.recipes, recipe, "recipe")
    stores = {}
    for teacher in chosen.teachers:
        inputs.named(params.teachers, teacher, f"teacher of recipe {recipe!r}")
        stores[teacher] = inputs.needs(paths.teacher_store(teacher), f"pipeline dump-teachers {teacher}")
    if chosen.merged is not None:
        inputs.named(params.ensembles, chosen.merged, f"ensemble of recipe {recipe!r}")
        stores[paths.ENSEMBLE] = inputs.needs(paths.ensemble_store(chosen.merged),
                                                f"pipeline build-ensemble {chosen.merged}")
    return stores


if __name__ == "__main__":
    entry.stage_main(run, "student", "recipe", "seed")
