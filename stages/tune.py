"""What `pipeline tune` runs: grids over training choices, scored on val. Test is never read here."""

import json
from itertools import product
from pathlib import Path
from statistics import mean, pstdev
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError
from stages import distill, inputs, paths, scoring, work

if TYPE_CHECKING:
    from pipeline.params import Params

RESULTS = Path("results", "tune")


def run(params: "Params", what: str) -> dict[str, Any]:
    """Searches "plain" (rate x schedule of recipe `plain`) or "weights" (W of recipe `tune.recipe`).

    Cells that are done are not repeated. Writes results/tune/WHAT.json and .md.

    Returns:
        {student: its rows, the best mean AP on val first}.

    Raises:
        UserError: params names nothing to search, or the data set has no val split.
    """
    grid = _plain_grid(params) if what == "plain" else _weights_grid(params)
    if not inputs.prepared_data(params).splits.get("val"):
        raise UserError(f"data set {params.data.name!r} has no val split; set data.val_fraction above 0 "
                        "and run 'pipeline prepare' again.")
    if not params.tune.students or not grid:
        raise UserError(f"there is nothing to tune: name tune.students and "
                        f"{'tune.lrs and tune.schedules' if what == 'plain' else 'tune.recipe and tune.weights'}.")
    recipe = "plain" if what == "plain" else str(params.tune.recipe)
    table = {}
    for student in params.tune.students:
        inputs.entry(params.students, student, "student")
        rows: list[dict[str, Any]] = []
        for choice, changed in grid:
            scores = [_cell(changed, student, recipe, seed, what, choice) for seed in params.tune.seeds]
            rows.append({"choice": choice, "map_area": mean(scores), "deviation": pstdev(scores),
                         "seeds": len(scores)})
        table[student] = sorted(rows, key=lambda row: -row["map_area"])
    work.write_text(RESULTS / f"{what}.json", json.dumps(table, indent=1) + "\n")
    work.write_text(RESULTS / f"{what}.md", _markdown(params, what, recipe, table))
    return table


def _plain_grid(params: "Params") -> "list[tuple[str, Params]]":
    grid = []
    for lr, schedule in product(params.tune.lrs, params.tune.schedules):
        students = {name: student.model_copy(update={"train": {**student.train, "lr": lr, "schedule": schedule}})
                    for name, student in params.students.items()}
        grid.append((f"lr={lr:g} {schedule}", params.model_copy(update={"students": students})))
    return grid


def _weights_grid(params: "Params") -> "list[tuple[str, Params]]":
    if params.tune.recipe is None:
        return []
    recipe = inputs.entry(params.recipes, params.tune.recipe, "recipe")
    grid = []
    for weights in params.tune.weights:
        changed = {params.tune.recipe: recipe.model_copy(update={"weights": weights})}
        grid.append((f"W={weights}", params.model_copy(update={"recipes": changed})))
    return grid


def _cell(params: "Params", student: str, recipe: str, seed: int, what: str, choice: str) -> float:
    """AP on val of one student trained with one choice."""
    name = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in choice)
    folder = paths.WORK / "tuned" / what / student / name / f"seed{seed}"
    distill.run(params, student, recipe, seed, out=folder)
    metrics = scoring.score(
        params, f"tune/{what}/{student}/{name}/seed{seed}", module="stages.tune", model_folder=folder,
        about={"kind": "student", "student": student, "recipe": recipe, "seed": seed},
        out=RESULTS / what / student / name / f"seed{seed}.json", split="val",
        size_hw=params.students[student].size)
    return float(metrics["map_area"])


def _markdown(params: "Params", what: str, recipe: str, table: dict[str, Any]) -> str:
    lines = [f"# Tuned on val: {'learning rate and schedule' if what == 'plain' else 'W'} of recipe `{recipe}`", "",
             f"Data set `{params.data.name}`, profile `{params.profile}`, {params.distill.train.epochs:g} epochs, "
             f"made by `pipeline tune {what}`. Val AP (area, IoU 0.5) in percent.", ""]
    for student, rows in table.items():
        lines += [f"## {student}", "", "| choice | val AP | std | seeds |", "|---|---:|---:|---:|"]
        lines += [f"| {row['choice']} | {row['map_area']:.2f} | {row['deviation']:.2f} | {row['seeds']} |"
                  for row in rows]
        lines.append("")
    return "\n".join(lines)
