"""What `pipeline plan` runs: the bill, predicted before the work and beside what happened."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import paths
from pipeline.errors import UserError
from stages import dump_teachers, inputs, work
from stages.views import viewed_split

if TYPE_CHECKING:
    from pipeline.billing.bill import Plan
    from pipeline.data.dataset import DataSet
    from pipeline.models import Detector
    from pipeline.params import Params


def run(params: "Params", students: Sequence[str] = (), recipes: Sequence[str] = ()) -> dict[str, Any]:
    """Plans students under recipes (default: those of `distill`) and writes results/plan.json.

    Returns:
        {"predicted": the fields of a `Plan`, "pays_from": epochs by student and recipe, "happened": those of
        `Happened`}.

    Raises:
        UserError: a name is unknown, no recipe has a teacher or one needs it in the step, or there is no data yet.
    """
    from pipeline.billing.bill import images_of, what_happened
    from pipeline.billing.planning import Question, make_plan
    from pipeline.inform import progress_bar
    from pipeline.params.recipe import PLAIN

    students, recipes = _asked(params, students, recipes)
    data = inputs.prepared_data(params)
    names = list(dict.fromkeys(teacher for recipe in recipes for teacher in params.recipes[recipe].teachers))
    untrained = [name for name in names if not paths.weights(paths.teacher_model(name)).exists()
                 or dump_teachers.other_network(params, name)]
    for name in untrained:
        work.say(f"plan: teacher {name} is not trained yet (as params have it): an untrained network stands in; its "
                 "time is right, the size of its store is not (maps of a trained one are mostly empty)")
    teachers = {name: _teacher(params, name, data, trained=name not in untrained) for name in names}
    with progress_bar("plan") as progress:
        plan = make_plan(Question(params, data, viewed_split(data), students, recipes, teachers, untrained),
                         say=work.say, progress=progress)
    images = {PLAIN: plan.images} | {recipe: images_of(params.recipes[recipe], data) for recipe in recipes}
    happened = what_happened(Path(), plan.stores, students, images)
    answer = {"predicted": plan.model_dump(mode="json"), "pays_from": _pays_from(plan),
              "happened": happened.model_dump(mode="json")}
    work.write_text(paths.plan_results(), json.dumps(answer, indent=1) + "\n")
    return answer


def _asked(params: "Params", students: Sequence[str], recipes: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names of students, and of those recipes that need a store."""
    students = list(dict.fromkeys(students or params.distill.students))
    recipes = list(dict.fromkeys(recipes or params.distill.recipes))
    for student in students:
        inputs.named(params.students, student, "student")
    for recipe in recipes:
        inputs.refuse_live(recipe, inputs.named(params.recipes, recipe, "recipe"))
    taught = [recipe for recipe in recipes if params.recipes[recipe].reads_a_store]
    if not taught:
        others = [name for name, recipe in params.recipes.items() if recipe.reads_a_store]
        raise UserError(f"there is nothing to plan: {', '.join(recipes)} {'need' if len(recipes) > 1 else 'needs'} no "
                        f"store. Name a recipe of teachers with --recipe: {', '.join(others) or 'there is none yet'}.")
    return students, taught


def _teacher(params: "Params", name: str, data: "DataSet", *, trained: bool) -> "Detector":
    """The trained teacher, or a network like it."""
    from pipeline.models import build_detector, load_trained

    teacher = params.teachers[name]
    if trained:
        return load_trained(paths.weights(paths.teacher_model(name)), data.classes, teacher.classes)
    return build_detector(teacher.model, len(data.classes), **teacher.arch)


def _pays_from(plan: "Plan") -> dict[str, dict[str, float | None]]:
    return {student: {recipe: plan.pays_from(student, recipe) for recipe in cost.taught}
            for student, cost in plan.students.items()}
