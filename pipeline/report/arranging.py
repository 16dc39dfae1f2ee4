"""Results in their places: by what params name, with teachers of several trainings averaged."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline import paths
from pipeline.errors import UserError
from pipeline.params import Params, Recipe
from pipeline.report.results import Result, Results, Scores, parse, spread

AGAIN = "Run 'pipeline evaluate' again."
SCORES = [name for name in Scores.model_fields if name != "per_class"]
BESIDE = ("unseen", "val", "train")


def load_results(params: Params, root: Path, data: str | None = None) -> Results:
    """Reads root/results; arguments as of `arrange`.

    Raises:
        UserError: a metrics.json is broken, or there is none at all.
    """
    folders = paths.teacher_results("*"), paths.ensemble_results("*"), paths.student_results("*", "*", "*")
    files = [file for folder in folders for file in sorted(root.glob(str(paths.metrics(folder))))]
    if not files:
        raise UserError(f"{root / 'results'} holds no metrics.json: run 'pipeline evaluate' first.")
    return arrange({str(file.relative_to(root)): parse(Result, file, AGAIN) for file in files}, params, data)


def arrange(found: Mapping[str, Result], params: Params, data: str | None = None) -> Results:
    """Results by name, in the order of params. Those on other data, of other names or recipes are left out and listed.

    Args:
        found: by what the list of those left out calls them.
        params: whose data, teachers, ensembles, students and recipes have a place.
        data: fingerprint of the data set; results that do not say theirs have a place too.
    """
    teachers: dict[str, list[Result]] = {}
    ensembles: dict[str, list[Result]] = {}
    runs: dict[tuple[str, str], dict[int, Result]] = {}
    left_out = []
    for where, result in found.items():
        if reason := _stranger(result, params, data):
            left_out.append(f"{where}: {reason}")
        elif result.kind == "teacher":
            teachers.setdefault(str(result.teacher), []).append(result)
        elif result.kind == "ensemble":
            ensembles.setdefault(str(result.ensemble), []).append(result)
        else:
            runs.setdefault((str(result.student), str(result.recipe)), {})[int(result.seed or 0)] = result
    return Results(
        teachers={name: averaged(teachers[name]) for name in params.teachers if name in teachers},
        runs={
            (student, recipe): dict(sorted(runs[student, recipe].items()))
            for student in params.students
            for recipe in params.recipes
            if (student, recipe) in runs
        },
        ensembles={name: averaged(ensembles[name]) for name in params.ensembles if name in ensembles},
        trainings={(kind, name): times for kind, known in (("teacher", teachers), ("ensemble", ensembles))
                   for name, times in known.items() if len(times) > 1},
        left_out=left_out,
    )


def averaged(results: Sequence[Result]) -> Result:
    """The first of several results of one network, with the means of their scores."""
    first, *others = results
    if not others:
        return first
    beside = {split: _means([scores for result in results if (scores := getattr(result, split))]) for split in BESIDE}
    means = {**_means(results), **{split: Scores(**found) for split, found in beside.items()}}
    return first.model_copy(update={**means, "per_class": {}})


def _means(several: Sequence[Scores]) -> dict[str, float | None]:
    means = {metric: spread(getattr(scores, metric) for scores in several) for metric in SCORES}
    return {metric: found.mean if found else None for metric, found in means.items()}


def changes_of(recipe: Recipe, result: Result) -> list[str]:
    """What is another thing in the recipe that a result says it was taught by; nothing where it does not say it."""
    now, then = recipe.model_dump(mode="json"), result.origin.recipe if result.origin else {}
    return [f"{key} {value}, now {now[key]}" for key, value in then.items() if key in now and now[key] != value]


def _stranger(result: Result, params: Params, data: str | None) -> str:
    """Why a result has no place in this report; empty if it has one."""
    if result.data != params.data.name:
        return f"it is on data {result.data!r}, the params say {params.data.name!r}"
    if data and result.origin and result.origin.data not in (None, data):
        return f"it is on another state of data {result.data!r}: {result.origin.data[:16]}, now {data[:16]}"
    for kind, name, known in (
        ("teacher", result.teacher, params.teachers),
        ("ensemble", result.ensemble, params.ensembles),
        ("student", result.student, params.students),
        ("recipe", result.recipe, params.recipes if result.kind == "student" else None),
    ):
        if name is not None and known is not None and name not in known:
            return f"{kind} {name!r} is not in the params"
    if result.kind == "student" and (changed := changes_of(params.recipes[str(result.recipe)], result)):
        return (f"recipe {result.recipe!r} was another: {'; '.join(changed)} (teach it again with "
                "'pipeline distill --restart', or give one of them another name)")
    return ""
