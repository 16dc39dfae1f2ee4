"""The bill: what stores and epochs cost, and from when on a store pays."""

import json
import math
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline import paths
from pipeline.data.dataset import TRAIN, UNLABELLED
from pipeline.errors import UserError
from pipeline.params import train_params
from storage import StoreError, differences, open_store, seconds_to_make

if TYPE_CHECKING:
    from pipeline.data import DataSet
    from pipeline.params import Params, Recipe

#: Keys of `train` and `views` that nothing takes longer or shorter for.
TAKES_NO_TIME = {"lr", "weight_decay", "schedule", "milestones", "gamma", "warmup", "seed", "checkpoint_minutes",
                 "log_every", "on_mismatch"}


class Part(BaseModel):
    """A part of the bill; times are seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class StoreCost(Part):
    """One store under targets/.

    Attributes:
        seconds: that its processes took to make it.
        bytes: on disk.
    """

    seconds: float
    bytes: int


class Taught(Part):
    """An epoch of a student under one recipe: from the store, and with its teachers in the step."""

    offline: float
    live: float


class StudentCost(Part):
    """What an epoch of one student costs.

    Attributes:
        epochs: that its training takes by params.
        plain: seconds of an epoch on ground truth alone.
        taught: by recipe.
    """

    epochs: float
    plain: float
    taught: dict[str, Taught]


class Plan(Part):
    """What was predicted before the work: results/plan.json.

    Attributes:
        deciding: `deciding` of the params and the data that it is about.
        images: of the training split.
        views: of all images that have any.
        size: [height, width] of a view.
        device: what everything was measured on, in one process.
        untrained: teachers without weights: a network of their architecture was measured.
        recipes: the stores that each needs beside the views.
        stores: by their name under targets/, the views first.
        students: by name.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")  # what older code planned is of other params

    deciding: dict[str, Any] = {}
    images: int
    views: int
    size: tuple[int, int]
    device: str
    untrained: list[str]
    recipes: dict[str, list[str]]
    stores: dict[str, StoreCost]
    students: dict[str, StudentCost]

    def differences(self, params: "Params", data: "DataSet") -> list[str]:
        """In what these params and data are others than what was planned; none where the plan is about them."""
        return differences(self.deciding, deciding(params, data, self.students, self.recipes), both_ways=True)

    def pays_from(self, student: str, recipe: str) -> float | None:
        """`break_even` of a student under a recipe."""
        taught = self.students[student].taught[recipe]
        setup = sum(self.stores[name].seconds for name in self.recipes[recipe])
        return break_even(setup, taught.live, taught.offline)


class Happened(Part):
    """What was measured by the work itself.

    Attributes:
        stores: by their name under targets/.
        epochs: seconds of an epoch by student and recipe, the median over seeds.
    """

    stores: dict[str, StoreCost]
    epochs: dict[str, dict[str, float]]

    def epoch(self, student: str, recipe: str) -> float | None:
        """Seconds of an epoch, if the student was trained."""
        return self.epochs.get(student, {}).get(recipe)


def deciding(params: "Params", data: "DataSet", students: Collection[str], recipes: Collection[str]) -> dict[str, Any]:
    """What decides the bill of students under recipes, as JSON values; names that params do not have are left out."""
    asked = {name: params.recipes[name] for name in recipes if name in params.recipes}
    teachers = {name for recipe in asked.values() for name in recipe.teachers}
    return {
        "data": data.fingerprint,
        "views": params.views.model_dump(mode="json", exclude=TAKES_NO_TIME),
        "dump": params.dump.model_dump(mode="json"),
        "teachers": {name: params.teachers[name].model_dump(mode="json", include={"model", "arch", "classes"})
                     for name in sorted(teachers)},
        "ensembles": {key: params.ensembles[key].model_dump(mode="json")
                      for key in sorted({recipe.merged for recipe in asked.values() if recipe.merged})},
        "recipes": {name: recipe.model_dump(mode="json") for name, recipe in asked.items()},
        "students": {name: {
            **params.students[name].model_dump(mode="json", include={"model", "arch", "size"}),
            "train": train_params(params.distill.train, params.students[name].train, f"students.{name}.train")
            .model_dump(mode="json", exclude=TAKES_NO_TIME),
        } for name in students if name in params.students},
    }


def stores_of(recipe: "Recipe") -> list[str]:
    """The names under targets/ of what has to be made for a recipe, beside the views."""
    return [*recipe.teachers, *([paths.ensemble_name(recipe.merged)] if recipe.merged else [])]


def images_of(recipe: "Recipe", data: "DataSet") -> int:
    """How many images an epoch of a recipe shows."""
    return len(data.records(TRAIN)) + (len(data.splits.get(UNLABELLED, ())) if recipe.unlabelled else 0)


def break_even(setup: float, live: float, offline: float) -> float | None:
    """The students' epochs from which on a store costs less than teachers in every step.

    Args:
        setup: seconds to make the store.
        live, offline: seconds of an epoch with teachers in the step, and from the store.

    Returns:
        Epochs of all students together; None where an epoch from the store takes no less.
    """
    return setup / (live - offline) if live > offline else None


def pays_in_words(epochs: float | None, of_one: float) -> str:
    """`break_even`, and how many students of `of_one` epochs each that is, as a person reads it."""
    if epochs is None:
        return "never"
    count = max(1, math.ceil(round(epochs / of_one, 6)))
    each = f"{of_one:g} epoch{'s' * (of_one != 1)}"
    who = f"{count} students of {each} each" if count > 1 else f"1 student of {each}"
    return f"{epochs:,.1f} epochs in all ({who})"


def what_happened(root: Path, stores: Iterable[str], students: Collection[str],
                  images: Mapping[str, int]) -> Happened:
    """Reads what finished stores and students say of their own cost.

    Args:
        root: the project's folder, with targets/ and models/.
        stores: names under targets/.
        students: whose summaries count.
        images: of an epoch, by recipe.
    """
    epochs: dict[str, dict[str, float]] = {}
    for student in students:
        for recipe, count in images.items():
            found = [_epoch_seconds(path, count)
                     for path in sorted(root.glob(f"{paths.student_model(student, recipe, '*')}/summary.json"))]
            if taken := [seconds for seconds in found if seconds is not None]:
                epochs.setdefault(student, {})[recipe] = median(taken)
    return Happened(stores=stores_made(root, stores), epochs=epochs)


def stores_made(root: Path, names: Iterable[str]) -> dict[str, StoreCost]:
    """What finished stores say of their own cost; others are left out."""
    made = {}
    for name in names:
        try:
            manifest = open_store(root / paths.store(name)).manifest
        except (StoreError, OSError):
            continue
        made[name] = StoreCost(seconds=seconds_to_make(manifest), bytes=manifest["counts"]["bytes"])
    return made


def read_plan(path: Path) -> Plan:
    """The plan of results/plan.json.

    Raises:
        UserError: the file holds something else.
    """
    try:
        return Plan.model_validate(json.loads(path.read_text(encoding="utf-8"))["predicted"])
    except (ValueError, KeyError, TypeError) as error:
        what = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise UserError(f"{path} is no plan ({what}). Run 'pipeline plan' again, or remove it.") from None


def _epoch_seconds(path: Path, images: int) -> float | None:
    """None of a student that `epochs: 0` left as it was."""
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        return float(summary["seconds"] / summary["passes"] * images) if summary["passes"] else None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no summary of a training run ({error}): train again, or remove it.") from None
