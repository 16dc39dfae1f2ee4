"""A student whose teachers run in every step, on views that are drawn afresh: what a store is compared with.

No stage of the line, in which students are taught without teachers; `pipeline study screen` asks for it.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError
from pipeline.params import Augmentation
from stages import distill, inputs, training
from stages.verify_live import teacher_of

if TYPE_CHECKING:
    from pipeline.params import Params


def run(params: "Params", student: str, recipe: str, seed: int, *, out: Path, devices: str = "auto") -> dict[str, Any]:
    """Trains the student into `out`; returns the summary of the run.

    The stores of the recipe must be there: the teachers are those that wrote them, and features are reduced as they
    are, so that little but the views differs. Several teachers are averaged cell by cell (`billing.live`).

    Raises:
        UserError: the ensemble, the dump or a teacher does what is not done in a step.
        StoreError: a store does not fit.
    """
    from pipeline.billing.live import LiveTeachers

    lesson = _lesson(params, student, recipe, seed, out)
    targets, data = lesson.targets, lesson.cell.data
    teachers = {name: teacher_of(targets.stores[name], data) for name in targets.recipe.teachers}
    return training.only(training.run(
        [lesson.cell], devices=devices, prepare=LiveTeachers(teachers, targets, params.dump),
        source=lambda: targets.source(seed=seed, stride=lesson.stride, cache_mb=params.data.cache_mb)))


def finished(params: "Params", student: str, recipe: str, seed: int, folders: Iterable[Path]) -> Path | None:
    """The first of the folders that holds this very student, finished; None where none does."""
    return _lesson(params, student, recipe, seed, None).found_in(folders)


def _lesson(params: "Params", student: str, recipe: str, seed: int, out: Path | None) -> distill.Lesson:
    """That of the stored views, with fresh ones in their place."""
    chosen = inputs.named(params.recipes, recipe, "recipe")
    _refuse_what_steps_do_not_do(params, recipe)
    stored = chosen.model_copy(update={"views": "stored"})
    unflipped = params.distill.model_copy(update={"flip": None})  # fresh views are drawn with their flips
    lesson = distill.lesson_of(params.model_copy(update={"recipes": {**params.recipes, recipe: stored},
                                                         "distill": unflipped}), student, recipe, seed, out=out)
    drawn = {"views": inputs.augmentation(params.views), "recipe": inputs.values(chosen)}
    cell = replace(lesson.cell, stage=lesson.cell.stage.replace("distill", "distill_live", 1), module=__name__,
                   inputs={**lesson.cell.inputs, **drawn})
    return replace(lesson, cell=cell, targets=replace(lesson.targets, recorded=params.views))


def _refuse_what_steps_do_not_do(params: "Params", recipe: str) -> None:
    chosen = params.recipes[recipe]
    rule = params.ensembles[chosen.merged].heatmap if chosen.merged in params.ensembles else "mean"
    partial = [name for name in chosen.teachers if name in params.teachers and params.teachers[name].classes]
    for wrong, found in ((rule != "mean", f"ensembles.{chosen.merged}.heatmap is {rule!r}"),
                         (params.dump.tta != Augmentation(), "dump.tta asks them several times"),
                         (partial, f"{', '.join(partial)} knows some classes alone")):
        if wrong:
            raise UserError(f"Recipe {recipe!r} runs its teachers in every step, where their answers are averaged cell "
                            f"by cell, but {found}: set views: stored.")
