"""The tables of the study's page."""

from collections.abc import Sequence
from statistics import fmean

from pipeline.params.recipe import PLAIN
from pipeline.report.claims import Interval, recovered
from pipeline.report.comparisons import Comparison
from pipeline.report.document import (
    DASH,
    Cell,
    Column,
    Table,
    best_in_columns,
    counted,
    listed,
    measured,
    number,
    shown,
    words,
)
from pipeline.report.leading import CLOSE
from pipeline.report.results import spread
from pipeline.report.study import Study, label


def claims_table(claims: list[Comparison]) -> Table:
    """Every claim with its interval, and how much of it rests on what."""
    rows = [
        [
            words(claim.claim),
            with_interval(claim.overall),
            with_interval(claim.by_seed),
            words(f"{claim.overall.p:.2g}" if claim.overall and claim.overall.p is not None else DASH),
            words(_by_set(claim)),
            words(claim.overall.verdict if claim.overall else DASH),
            words(claim.asked),
            words({None: DASH, True: "yes", False: "no"}[claim.reached]),
        ]
        for claim in claims
    ]
    unfair = [f"“{claim.claim}”: {counted(claim.unfair, 'pair')} left out, of other training, passes, data, views, "
              "precision, processes or teachers." for claim in claims if claim.unfair]
    return Table(
        key="claims",
        title="Claims",
        caption="Mean difference of mAP@.5 in points over n pairs of the same student and seed, with its 95 % "
        "interval; on test where nothing else is said. The better single teacher is the one with the higher AP on val; "
        f"one within {CLOSE:g} point of it is as good.",
        columns=[
            Column(title="Claim", numeric=False),
            Column(title="mean over students"),
            Column(title="seeds as blocks"),
            Column(title="p"),
            Column(title="sets of teachers"),
            Column(title="the claim", numeric=False),
            Column(title="asked for", numeric=False),
            Column(title="reached", numeric=False),
        ],
        rows=rows,
        notes=unfair,
    )


def _by_set(claim: Comparison) -> str:
    """How many sets of teachers there are, and what each comes to."""
    means = [shown(found.mean, sign=True) for found in claim.by_set]
    return f"{len(means)}: {', '.join(means)}" if len(means) > 1 else str(len(means) or DASH)


def claims_by_student_table(claims: list[Comparison]) -> Table:
    """What each claim comes to for single students."""
    students = list(dict.fromkeys(student for claim in claims for student in claim.by_student))
    return Table(
        key="claims-by-student",
        title="Claims, by student",
        caption="The same differences for each student alone, from its own pairs and their own spread.",
        columns=[Column(title="Claim", numeric=False), *(Column(title=label(student)) for student in students)],
        rows=[[words(claim.claim), *(with_interval(claim.by_student.get(student)) for student in students)]
              for claim in claims],
    )


def with_interval(found: Interval | None) -> Cell:
    """ "+3.2 [1.0, 5.4]"; a single pair has no interval."""
    if found is None:
        return words(DASH)
    text = shown(found.mean, sign=True)
    if found.low is not None and found.high is not None:
        text += f" [{shown(found.low, sign=True)}, {shown(found.high, sign=True)}]"
    return Cell(text=text, value=found.mean, n=found.pairs)


def recipes_table(study: Study) -> Table:
    """What the names of recipes stand for."""
    rows = []
    for name in study.shown_recipes:
        recipe = study.params.recipes[name]
        whose = recipe.feature_teachers if recipe.reads_features else []
        heads = (recipe.merged or " & ".join(map(label, recipe.teachers))) if recipe.reads_a_store else ""
        rows.append([
            words(study.recipe_label(name)),
            words(f"`{name}`"),
            words(", ".join(f"{weight:g}" for weight in recipe.weights) if recipe.taught else ""),
            words(" & ".join(map(label, whose))),
            words((" & ".join(recipe.attention) or "none") if whose and recipe.features == "hint" else ""),
            words("rendered ground truth" if recipe.oracle else heads),
            words("drawn anew in every step" if recipe.views == "fresh" else "the recorded ones"),
        ])
    return Table(
        key="recipes",
        title="What they stand for",
        caption="Every student learns from the ground truth too, by CenterNet's loss; “alone”, or “nobody”, from "
        "nothing else. W weighs what heads (heatmap, wh, offset; of one teacher, or of an ensemble) and features add.",
        columns=[Column(title=title, numeric=False)
                 for title in ("Recipe", "key", "W", "features of", "attention", "heads of", "views")],
        rows=rows,
    )


def gap_recovered(study: Study, recipe: str) -> float | None:
    """The mean over students of what a row of `gap_table` says, in percent; None where one has no pair."""
    shares = [_share(study.distilled, student, recipe).value for student in study.params.distill.students]
    there = [share for share in shares if share is not None]
    return fmean(there) if there and len(there) == len(shares) else None


def _share(study: Study, student: str, recipe: str) -> Cell:
    best, results = _best_teacher(study), study.results
    pairs = [(taught, plain, results.teacher_of(best, taught)) for taught, plain in results.fair_pairs(student, recipe)]
    means = (spread(result.map_area for result in column) for column in zip(*pairs, strict=True))
    found = recovered(*(mean.mean if mean else None for mean in means)) if pairs else None
    return number(found, 0, unit=" %").model_copy(update={"n": None if found is None else len(pairs)})


def _best_teacher(study: Study) -> str:
    """The one with the highest AP on val; "" where none was scored."""
    known = {name: score for name, teacher in study.results.teachers.items()
             if (score := teacher.score("val.map_area")) is not None}
    return max(known, key=lambda name: known[name], default="")


def main_table(study: Study, metric: str, where: str) -> Table:
    """The recipes and seeds that params distil: what is compared there has the same seeds."""
    wanted = study.params.distill
    table = _arms(
        study.distilled, wanted.recipes, metric, key="arms", title=f"mAP@.5 (area) {where}",
        caption=f"Percent, mean ± standard deviation over n of the seeds {listed([*map(str, wanted.seeds)])}; the best "
        "of each column stands out.")
    return table.model_copy(update={"rows": best_in_columns(table.rows, list(range(1, len(table.columns))))})


def others_table(study: Study, metric: str, where: str) -> Table | None:
    """The recipes that are no part of `main_table`, with every seed that they have."""
    others = [name for name in study.shown_recipes if name not in study.params.distill.recipes]
    return _arms(
        study, others, metric, key="others", title=f"Side questions: mAP@.5 (area) {where}",
        caption="Percent, mean ± standard deviation over n seeds, which differ from row to row: only claims, above, "
        "are of the same ones.") if others else None


def _arms(study: Study, recipes: Sequence[str], metric: str, *, key: str, title: str, caption: str) -> Table:
    """A row for each recipe, a column for each student."""
    students, results = study.params.distill.students, study.results
    rows = []
    for recipe in recipes:
        means = [mean for student in students if (mean := results.mean(student, recipe, metric)) is not None]
        rows.append([words(study.recipe_label(recipe)),
                     *(measured(results.score(student, recipe, metric)) for student in students),
                     number(fmean(means) if len(means) == len(students) else None)])
    return Table(
        key=f"{key}-{metric.replace('.', '-')}",
        title=title,
        caption=caption,
        columns=[
            Column(title="Recipe", numeric=False),
            *(Column(title=label(student)) for student in students),
            Column(title="mean of students"),
        ],
        rows=rows,
    )


def gap_table(study: Study) -> Table:
    """How much of the way from plain to the better teacher each recipe goes, on fair pairs of the same seed."""
    study, wanted = study.distilled, study.params.distill
    best = _best_teacher(study)
    rows = [[words(study.recipe_label(recipe)), *(_share(study, student, recipe) for student in wanted.students),
             number(gap_recovered(study, recipe), 0, unit=" %")]
            for recipe in wanted.recipes if recipe != PLAIN]
    on_test = study.results.teacher(best).map_area
    whose = "not evaluated yet" if on_test is None else f"{label(best)}, {shown(on_test)} on test"
    return Table(
        key="gap",
        title="Gap recovered",
        caption="(recipe − plain) / (teacher − plain) of mAP@.5 on test, each the mean over the n fair pairs of the "
        f"same seed. The teacher is the better one on val: {whose}.",
        columns=[
            Column(title="Recipe", numeric=False),
            *(Column(title=label(student)) for student in wanted.students),
            Column(title="mean of students"),
        ],
        rows=best_in_columns(rows, list(range(1, 2 + len(wanted.students)))),
    )
