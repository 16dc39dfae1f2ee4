"""Who plays which part: the params' students, teachers and recipes in the roles of the paper's tables."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from pipeline.params import Params, Recipe
from pipeline.params.recipe import PAPER_WEIGHTS, PLAIN
from pipeline.report.document import DASH, counted, listed
from pipeline.report.results import Results

if TYPE_CHECKING:
    from pipeline.data import DataSet

#: Of VOC07+12, whose trainval has 16,551 images; some may be held out.
VOC_CLASSES, VOC_IMAGES = 20, 14_000
NOBODY = "nobody"

LABELS = {
    "resnet18": "ResNet-18",
    "resnet34": "ResNet-34",
    "resnet50": "ResNet-50",
    "mobilenet_v2": "MobileNetV2",
    "efficientnet_b0": "EfficientNet-b0",
    "hourglass104": "Hourglass-104",
    "hourglass_small": "Hourglass (small)",
}


def label(name: str) -> str:
    """A network's name as papers write it; "resnet50_2" and "resnet50_b" are further ones of it."""
    network, _, which = name.rpartition("_")
    return f"{LABELS[network]} {which}" if network in LABELS and name not in LABELS else LABELS.get(name, name)


def _nobody(recipe: str) -> str:
    """Nobody, and what else is special: "nobody, fresh" for "plain-fresh"."""
    variant = recipe.removeprefix(PLAIN).lstrip("-")
    return f"{NOBODY}, {variant}" if variant else NOBODY


@dataclass(frozen=True)
class Study:
    """Params, results and data together, and the questions that tables, plots and words ask of them."""

    params: Params
    results: Results
    data: "DataSet"

    @property
    def scale(self) -> str:
        """Ours, labelled: data set, classes, images, input size, training length."""
        height, width = self.params.views.size
        images = len(self.data.splits.get("train", ()))
        return (
            f"Ours: {self.data.name}, {counted(len(self.data.classes), 'class', 'classes')}, "
            f"{images:,} images, {width}×{height} px, {self.passes}"
        )

    @property
    def ours(self) -> str:
        """The heading over our columns."""
        return f"Ours: {self.data.name}"

    @property
    def caution(self) -> str:
        """What a reader must not conclude, with a leading space; empty at the paper's scale."""
        return "" if self.of_the_paper else " Other data at another scale: compare gains, not levels."

    @property
    def of_the_paper(self) -> bool:
        """Whether data and input are those of the paper: VOC07+12 at 512 px."""
        train = self.data.splits.get("train", ())
        return (self.params.views.size == (512, 512) and len(self.data.classes) == VOC_CLASSES
                and len(train) >= VOC_IMAGES and self.params.data.kind == "voc")

    @property
    def passes(self) -> str:
        """How many images a student sees in training, e.g. "24,000 passes"."""
        runs = [run for runs in self.results.runs.values() for run in runs.values()]
        passes = sorted({round(run.passes) for run in runs if run.passes})
        if not passes:
            return "no student yet"
        return f"{passes[0]:,} passes" if len(passes) == 1 else f"{passes[0]:,} to {passes[-1]:,} passes"

    def student(self, model: str) -> str | None:
        """The student that is this network."""
        students = self.params.students
        return next((name for name in students if students[name].model == model), None)

    def taught_by(self, recipe: str) -> str:
        """A recipe's teachers, and the suffix that makes it a variant."""
        teachers = self.params.recipes[recipe].teachers
        if not teachers:
            return "rendered ground truth" if self.params.recipes[recipe].oracle else _nobody(recipe)
        suffix = recipe.removeprefix("+".join(teachers)).lstrip("-")
        taught = " & ".join(label(teacher) for teacher in teachers)
        return f"{taught}, {suffix}" if suffix else taught

    def recipe_label(self, recipe: str) -> str:
        """A recipe in words: "alone", "alone, fresh", "taught by ResNet-50"."""
        taught_by = self.taught_by(recipe)
        return taught_by.replace(NOBODY, "alone", 1) if taught_by.startswith(NOBODY) else f"taught by {taught_by}"

    def recipe_from(self, *families: str) -> str | None:
        """The recipe whose teachers are one of each family of networks ("resnet50", "hourglass")."""

        def matches(recipe: Recipe) -> bool:
            teachers = self.params.teachers
            models = [teachers[name].model for name in recipe.teachers if name in teachers]
            return len(models) == len(recipe.teachers) == len(families) and all(
                any(model.startswith(family) for model in models) for family in families
            )

        return self._first([name for name, recipe in self.params.recipes.items() if matches(recipe)])

    @cached_property
    def single_teacher(self) -> str | None:
        return self.recipe_from("resnet50")

    @cached_property
    def two_teachers(self) -> str | None:
        return self.recipe_from("resnet50", "hourglass")

    @cached_property
    def headline(self) -> str | None:
        """The recipe that the summary is about: of those with results, the one with the most teachers."""
        taught = [name for name, recipe in self.params.recipes.items() if recipe.teachers]
        tried = [name for name in taught if name in self.shown_recipes] or taught
        most = max((len(self.params.recipes[name].teachers) for name in tried), default=0)
        return self._first([name for name in tried if len(self.params.recipes[name].teachers) == most])

    @cached_property
    def by_weights(self) -> dict[str, str]:
        """The recipe for each W of Table 4, all of the same teachers: those for which most W were tried."""
        recipes = self.params.recipes
        groups = []
        for teachers in {tuple(recipe.teachers): None for recipe in recipes.values() if recipe.teachers}:
            alike = [name for name in recipes if tuple(recipes[name].teachers) == teachers]
            by_weights = {
                key: self._first([name for name in alike if recipes[name].weights == weights])
                for key, weights in PAPER_WEIGHTS.items()
            }
            groups.append({key: name for key, name in by_weights.items() if name})
        tried = {*self.shown_recipes}
        return max(groups, key=lambda group: (len(tried & {*group.values()}), len(group)), default={})

    @cached_property
    def distilled(self) -> "Study":
        """The same with what params distil alone: the runs of these students, recipes and seeds, and their teachers."""
        wanted, results = self.params.distill, self.results
        cells = {(student, recipe): {seed: run for seed, run in runs.items() if seed in wanted.seeds}
                 for (student, recipe), runs in results.runs.items()
                 if student in wanted.students and recipe in wanted.recipes}
        named = {name for recipe in wanted.recipes for name in self.params.recipes[recipe].teachers}
        runs = [run for runs in cells.values() for run in runs.values()]
        return replace(self, results=replace(
            results, runs={cell: runs for cell, runs in cells.items() if runs},
            teachers={name: results.teachers[name].model_copy(update={"map_area": score.mean if score else None})
                      for name in results.teachers if name in named for score in [results.behind(name, runs)]}))

    @property
    def shown_students(self) -> list[str]:
        """Students with at least one result."""
        return list(dict.fromkeys(student for student, _ in self.results.runs))

    @property
    def shown_recipes(self) -> list[str]:
        """Recipes with at least one result."""
        tried = {recipe for _, recipe in self.results.runs}
        return [name for name in self.params.recipes if name in tried]

    @property
    def main_recipes(self) -> list[str]:
        """Recipes with results that are no variant of another: plain, and one for each set of teachers."""
        return [
            name
            for name in self.shown_recipes
            if name == PLAIN or name == "+".join(self.params.recipes[name].teachers) or name == self.headline
        ]

    def fill(self, missing: Sequence[tuple[str | None, str | None]]) -> list[str]:
        """The note that says which command fills the cells (student, recipe) that are missing."""
        commands: dict[str, list[str]] = {}
        unnamed = False
        for student, recipe in missing:
            if student in self.params.students and recipe in self.params.recipes:
                commands.setdefault(str(recipe), []).append(str(student))
            else:
                unnamed = True
        notes = []
        if commands:
            lines = []
            for recipe, students in commands.items():
                options = " ".join(f"--student {name}" for name in dict.fromkeys(students))
                lines.append(f"`pipeline distill {options} --recipe {recipe}`")
            notes.append(f"To fill a {DASH}: {listed(lines)}, then `pipeline evaluate` and `pipeline report`.")
        if unnamed and self.params.profile in ("demo", "study"):
            notes.append(
                f"To fill a {DASH} whose student or recipe the profile {self.params.profile!r} does not have: "
                "`pipeline profile study`, then `dvc repro`."
            )
        return notes

    def _first(self, recipes: Sequence[str]) -> str | None:
        """One of recipes that play the same part: the one named after its teachers, else the first."""
        named = {name: name == "+".join(self.params.recipes[name].teachers) for name in recipes}
        return max(recipes, key=lambda name: named[name], default=None)
