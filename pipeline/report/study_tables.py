"""The tables of the study's page."""

import math
from collections.abc import Mapping
from itertools import groupby
from statistics import fmean
from typing import TYPE_CHECKING

from pipeline.report.cells import Screened
from pipeline.report.claims import Interval, interval, recovered
from pipeline.report.comparisons import Comparison
from pipeline.report.document import (
    DASH,
    Cell,
    Column,
    Table,
    best_in_columns,
    counted,
    measured,
    number,
    shown,
    words,
)
from pipeline.report.results import Result, fair, middle, minus, same_precision, spread
from pipeline.report.study import PLAIN, Study, label

if TYPE_CHECKING:
    from pipeline.params import Screening


def claims_table(claims: list[Comparison]) -> Table:
    """Every claim with its interval, for all students and for each."""
    students = list(dict.fromkeys(student for claim in claims for student in claim.by_student))
    rows = [
        [
            words(claim.claim),
            with_interval(claim.overall),
            *(with_interval(claim.by_student.get(student)) for student in students),
            words(f"{claim.overall.p:.2g}" if claim.overall and claim.overall.p is not None else DASH),
            words(claim.overall.verdict if claim.overall else DASH),
            words(claim.asked),
            words({None: DASH, True: "yes", False: "no"}[claim.reached]),
        ]
        for claim in claims
    ]
    unfair = [f"“{claim.claim}”: {counted(claim.unfair, 'pair')} left out, of other passes, data, views or teachers."
              for claim in claims if claim.unfair]
    return Table(
        key="claims",
        title="Claims",
        caption="Mean difference of mAP@.5 in points over n pairs of the same student and seed, with its 95 % "
        "interval; on test where nothing else is said. The better single teacher is the one with the higher AP on val.",
        columns=[
            Column(title="Claim", numeric=False),
            Column(title="mean over students"),
            *(Column(title=label(student)) for student in students),
            Column(title="p"),
            Column(title="the claim", numeric=False),
            Column(title="asked for", numeric=False),
            Column(title="reached", numeric=False),
        ],
        rows=rows,
        notes=unfair,
    )


def with_interval(found: Interval | None) -> Cell:
    """ "+3.2 [1.0, 5.4]"; a single pair has no interval."""
    if found is None:
        return words(DASH)
    text = shown(found.mean, sign=True)
    if found.low is not None and found.high is not None:
        text += f" [{shown(found.low, sign=True)}, {shown(found.high, sign=True)}]"
    return Cell(text=text, value=found.mean, n=found.pairs)


def arms_table(study: Study, metric: str, title: str) -> Table:
    """A row for each recipe, a column for each student."""
    students, results = study.params.distill.students, study.results
    rows = []
    for recipe in study.shown_recipes:
        means = [results.mean(student, recipe, metric) for student in students]
        known = [mean for mean in means if mean is not None]
        rows.append(
            [
                words(study.recipe_label(recipe)),
                *(measured(results.score(student, recipe, metric)) for student in students),
                number(fmean(known) if len(known) == len(students) else None),
            ]
        )
    return Table(
        key=f"arms-{metric.replace('.', '-')}",
        title=title,
        caption="Percent, mean ± standard deviation over n seeds; the best of each column stands out.",
        columns=[
            Column(title="Recipe", numeric=False),
            *(Column(title=label(student)) for student in students),
            Column(title="mean of students"),
        ],
        rows=best_in_columns(rows, list(range(1, 2 + len(students)))),
    )


def gap_table(study: Study) -> Table:
    """How much of the way from plain to the better teacher each recipe goes, on fair pairs of the same seed."""
    results, students = study.results, study.params.distill.students
    known = {name: score for name, teacher in results.teachers.items()
             if (score := teacher.score("val.map_area")) is not None}
    best = max(known, key=lambda name: known[name], default="")

    def share(student: str, recipe: str) -> float | None:
        pairs = [(taught, plain, results.teacher(best, taught.origin.teachers.get(best) if taught.origin else None))
                 for taught, plain in results.pairs(student, recipe) if fair(taught, plain)]
        means = (spread(result.map_area for result in column) for column in zip(*pairs, strict=True))
        return recovered(*(mean.mean if mean else None for mean in means)) if pairs else None

    rows = []
    for recipe in study.shown_recipes:
        if recipe == PLAIN:
            continue
        shares = [share(student, recipe) for student in students]
        there = [share for share in shares if share is not None]
        mean = fmean(there) if len(there) == len(students) else None
        rows.append([words(study.recipe_label(recipe)), *(number(share, 0, unit=" %") for share in shares),
                     number(mean, 0, unit=" %")])
    on_test = results.teacher(best).map_area
    whose = "not evaluated yet" if on_test is None else f"{label(best)}, {shown(on_test)} on test"
    return Table(
        key="gap",
        title="Gap recovered",
        caption="(recipe − plain) / (teacher − plain) of mAP@.5 on test, each the mean over pairs of the same seed. "
        f"The teacher is the better one on val: {whose}.",
        columns=[
            Column(title="Recipe", numeric=False),
            *(Column(title=label(student)) for student in students),
            Column(title="mean of students"),
        ],
        rows=best_in_columns(rows, list(range(1, 2 + len(students)))),
    )


def screening_table(study: Study, group: str, cells: list[Screened]) -> Table:
    """One group of variations, best first, against the first that params name and plain students of equal passes.

    A group of lengths is held against plain students whatever their passes.
    """
    screening = study.params.screening[group]
    variations = list(screening.variations)
    lengths = _of_lengths(screening)
    rows = []
    for student, own in groupby(sorted(cells, key=lambda cell: str(cell.student)), lambda cell: str(cell.student)):
        runs: dict[str, dict[int, Screened]] = {name: {} for name in variations}
        for cell in own:
            if cell.variation in runs:
                runs[cell.variation][cell.seed or 0] = cell
        first = runs[variations[0]]
        plain = study.results.runs.get((student, PLAIN), {})
        of_student = []
        for name, by_seed in runs.items():
            if not by_seed:
                continue
            against = _over(by_seed, first, "map_area")
            alone = plain if lengths else {seed: run for seed, run in plain.items()
                                           if seed in by_seed and _as_long(by_seed[seed], run)}
            of_student.append(
                [
                    words(label(student)),
                    words(name),
                    measured(spread(cell.map_area for cell in by_seed.values())),
                    words("") if name == variations[0] else with_interval(against),
                    with_interval(_over(by_seed, alone, "val.map_area")),
                    number(next(iter(by_seed.values())).passes, 0),
                ]
            )
        rows += best_in_columns(sorted(of_student, key=lambda row: -(row[2].value or 0.0)), [2])
    return Table(
        key=f"screening-{group}",
        title=f"Screening: {group}",
        caption=f"{screening.title} Variations of recipe `{screening.recipe}`; mAP@.5 on val in percent, mean ± "
        "standard deviation over n seeds.",
        columns=[
            Column(title="Student", numeric=False),
            Column(title="Variation", numeric=False),
            Column(title="val"),
            Column(title=f"over {variations[0]}"),
            Column(title="over alone"),
            Column(title="passes"),
        ],
        rows=rows,
        notes=[note for student in dict.fromkeys(cell.student for cell in cells)
               if (note := _reached(study, group, str(student), [cell for cell in cells if cell.student == student]))],
    )


def screened_intervals(table: Table) -> int:
    """How many intervals a `screening_table` has."""
    over = [place for place, column in enumerate(table.columns) if column.title.startswith("over ")]
    return sum((row[place].n or 0) > 1 for row in table.rows for place in over)


def _over(cells: Mapping[int, Screened], reference: Mapping[int, Result], metric: str) -> Interval | None:
    """Differences on val to what the same seed has there, by `metric`, in the same precision."""
    differences = [minus(cell.map_area, reference[seed].score(metric)) for seed, cell in cells.items()
                   if seed in reference and same_precision(cell, reference[seed])]
    return interval({"": [value for value in differences if value is not None]})


def _as_long(a: Result, b: Result) -> bool:
    """Equal passes, but for last batches that are filled up."""
    return math.isclose(a.passes or 0.0, b.passes or 0.0, rel_tol=0.02)


def _of_lengths(screening: "Screening") -> bool:
    """Whether a group varies how long students train and nothing else."""
    changes = [change for listed in screening.variations.values() for change in listed]
    return all(change.partition("=")[0].endswith(".train.epochs") and change.startswith(("distill.", "students."))
               for change in changes)


def _reached(study: Study, group: str, student: str, cells: list[Screened]) -> str:
    """After how many passes runs of different lengths are as good as the plain ones of the same seeds at their end.

    Empty of a group that varies anything but how long students train: there more than the length tells runs apart.
    """
    if not _of_lengths(study.params.screening[group]):
        return ""
    alone = study.results.runs.get((student, PLAIN), {})
    lengths = sorted({cell.passes for cell in cells if cell.passes})
    found = {length: over for length in lengths if (over := _over(
        {cell.seed or 0: cell for cell in cells if cell.passes == length}, alone, "val.map_area"))}
    if len(found) < 2:
        return ""
    whole = shown(middle(run.passes for run in alone.values()) or 0, 0)
    enough = next((f"the shortest runs as good in the mean took {shown(length, 0)} ({with_interval(over).text} points)"
                   for length, over in found.items() if over.mean >= 0), "no run here is as good")
    return f"Passes to plain's final AP, on val, by the same seeds: {label(student)} alone takes {whole}; {enough}."
