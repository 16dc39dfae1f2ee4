"""The tables of the study's screening."""

from collections.abc import Mapping
from itertools import groupby

from pipeline.params.recipe import PLAIN
from pipeline.report.cells import Screened
from pipeline.report.claims import Interval, interval
from pipeline.report.document import Column, Table, best_in_columns, listed, measured, number, shown, words
from pipeline.report.results import Result, as_long, calculated_alike, middle, minus, same_teachers, spread
from pipeline.report.study import Study, label
from pipeline.report.study_tables import with_interval


def screening_table(study: Study, group: str, cells: list[Screened]) -> Table:
    """One group of variations, best first, against the first that params name and plain students, both of equal passes.

    A group of lengths is held against them whatever their passes.
    """
    screening = study.params.screening[group]
    variations = list(screening.variations)
    lengths = screening.of_lengths
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
            against = _over(by_seed, first, "map_area", equally_long=not lengths,
                            other_teachers=any(map(screening.other_teachers, (name, variations[0]))))
            of_student.append(
                [
                    words(label(student)),
                    words(name),
                    measured(spread(cell.map_area for cell in by_seed.values())),
                    words("") if name == variations[0] else with_interval(against),
                    with_interval(_over(by_seed, plain, "val.map_area", equally_long=not lengths)),
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


def _over(cells: Mapping[int, Screened], reference: Mapping[int, Result], metric: str, *, equally_long: bool,
          other_teachers: bool = False) -> Interval | None:
    """Differences on val to what the same seed has there.

    Args:
        metric: of the reference; on val.
        equally_long, other_teachers: only of runs of equal passes; also of teachers that were trained apart.
    """
    differences = [minus(cell.map_area, other.score(metric)) for seed, cell in cells.items()
                   if (other := reference.get(seed)) and calculated_alike(cell, other)
                   and (as_long(cell, other) or not equally_long) and (same_teachers(cell, other) or other_teachers)]
    return interval({"": [value for value in differences if value is not None]})


def _reached(study: Study, group: str, student: str, cells: list[Screened]) -> str:
    """After how many passes runs of different lengths are as good as the plain ones of the same seeds at their end.

    Empty for a group of plain runs, of longer runs, or one that varies anything besides how long students train.
    """
    screening = study.params.screening[group]
    if screening.recipe == PLAIN or not screening.of_lengths:
        return ""
    alone = study.results.runs.get((student, PLAIN), {})
    lengths = sorted({cell.passes for cell in cells if cell.passes})
    found = {length: over for length in lengths if (over := _over(
        {cell.seed or 0: cell for cell in cells if cell.passes == length}, alone, "val.map_area", equally_long=False))}
    whole = middle(run.passes for run in alone.values()) or 0.0
    if len(found) < 2 or max(found) > 1.02 * whole:
        return ""
    tried = f"of runs with {listed([shown(length, 0) for length in found])}"
    enough = next((length for length, over in found.items() if over.mean >= 0), None)
    if enough is None:
        said = f"{tried}, none is as good"
    else:
        less = max((length for length in found if length < enough), default=None)
        said = (f"{tried}, the shortest that are as good in the mean take {shown(enough, 0)} "
                f"({with_interval(found[enough]).text} points)")
        said += f"; {shown(less, 0)} are too few, and nothing between was tried" if less else ""
    return (f"Passes to plain's final AP, on val, by the same seeds: {label(student)} alone takes {shown(whole, 0)}; "
            f"{said}.")
