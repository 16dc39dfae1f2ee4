"""The tables of everything that was measured: teachers, students, classes, costs."""

from collections.abc import Iterable
from itertools import groupby

from pipeline.params.recipe import PLAIN
from pipeline.report.document import (
    DASH,
    Cell,
    Column,
    Table,
    best_in_columns,
    changed,
    listed,
    measured,
    number,
    words,
)
from pipeline.report.results import Result, middle, minus, spread
from pipeline.report.study import Study, label

SHOWN_METRICS = ("map_area", "map07", "ap", "ap75", "unseen.map_area")
FITTED = ("val.map_area", "train.map_area")
METRIC_COLUMNS = [
    Column(title="mAP@.5 area", group="Test"),
    Column(title="mAP@.5 11-point", group="Test"),
    Column(title="COCO AP", group="Test"),
    Column(title="COCO AP75", group="Test"),
    Column(title="mAP@.5 area", group="Unseen"),
]


def teachers_table(study: Study, *, timed: bool = True) -> Table:
    """The scores of every teacher, of ensembles of them and, if `timed`, the minutes of training."""
    results = study.results
    teachers = [(label(name), results.teacher(name)) for name in study.params.teachers]
    ensembles = [(f"{key}: {' & '.join(map(label, study.params.ensembles[key].teachers))}", result)
                 for key, result in results.ensembles.items()]
    notes = [f"To fill a {DASH}: `pipeline train-teacher {name}`, then `pipeline evaluate`."
             for name in study.params.teachers if name not in results.teachers]
    known = {name: [one for one in study.data.classes if one in (teacher.classes or study.data.classes)]
             for name, teacher in study.params.teachers.items()}
    notes += [f"{label(name)} knows {listed(classes)} alone, and its mAP is over all classes."
              for name, classes in known.items() if 0 < len(classes) < len(study.data.classes)]
    if results.trainings:
        notes.append("Teachers of other seeds were trained again, elsewhere: every recipe of one seed has the same "
                     "ones. Where one number stands for a teacher, it is the mean of its trainings.")
    return Table(
        key="teachers",
        title="Teachers",
        caption=f"{_splits(study)} {_fitted(study)}"
        + (" An ensemble is scored by what its teachers say of these images, merged as their stores are, a teacher as "
           "a detector: the best of each kind stands out." if results.ensembles else ""),
        columns=[
            Column(title="Teacher", numeric=False),
            *METRIC_COLUMNS,
            *(Column(title="mAP@.5 area", group=split) for split in ("Val", "Train")),
            *([Column(title="minutes", group="Training")] if timed else []),
        ],
        rows=[*_trainings(study, teachers, timed=timed), *_trainings(study, ensembles, timed=timed)],
        notes=notes,
    )


def students_table(study: Study, *, timed: bool = True) -> Table:
    """Every student and recipe that was evaluated; if `timed`, with the minutes of training."""
    results, rows = study.results, []
    for student, grouped in groupby(results.runs, key=lambda cell: cell[0]):
        cells = [*grouped]
        of_student = [
            [
                words(label(student)),
                words(study.taught_by(recipe)),
                *(measured(results.score(student, recipe, metric), seeds=False) for metric in SHOWN_METRICS),
                words("") if recipe == PLAIN else _gain(study, student, recipe),
                number(len(results.of(student, recipe)), 0),
                *([_minutes(results.of(student, recipe))] if timed else []),
            ]
            for _, recipe in cells
        ]
        alike = len({frozenset(results.runs[cell]) for cell in cells}) == 1
        rows += best_in_columns(of_student, list(range(2, 2 + len(SHOWN_METRICS))) if alike else [])
    return Table(
        key="students",
        title="Students",
        caption=f"{_splits(study)} Mean ± standard deviation over seeds; each student's best stands out "
        "where all of its rows have the same seeds.",
        columns=[
            Column(title="Student", numeric=False),
            Column(title="Taught by", numeric=False),
            *METRIC_COLUMNS,
            Column(title="gain", group="Over alone"),
            Column(title="seeds", group="Training"),
            *([Column(title="minutes", group="Training")] if timed else []),
        ],
        rows=rows,
        notes=[f"Left out: {reason}." for reason in results.left_out],
    )


def per_class_table(study: Study) -> Table:
    """AP@.5 of every class, teachers and students."""
    results = study.results
    groups = [(f"{label(name)} (teacher)", [result]) for name, result in results.teachers.items()]
    groups += [
        (f"{label(student)} {study.recipe_label(recipe)}", results.of(student, recipe))
        for student, recipe in results.runs
        if recipe in study.main_recipes
    ]
    rows = [
        [
            words(name),
            number(_mean(run.map_area for run in runs)),
            *(number(_mean(run.per_class.get(name) for run in runs)) for name in study.data.classes),
        ]
        for name, runs in groups
    ]
    return Table(
        key="per-class",
        title="AP by class",
        caption="AP@.5 (area) on test in percent, mean over seeds; the best of each class stands out.",
        columns=[
            Column(title="Network", numeric=False),
            Column(title="all"),
            *(Column(title=name) for name in study.data.classes),
        ],
        rows=best_in_columns(rows, list(range(1, 2 + len(study.data.classes)))),
    )


def cost_table(study: Study, *, timed: bool = True) -> Table:
    """Parameters, MACs and, if `timed`, latency against the baseline teacher."""
    results, base = study.results, study.params.report.baseline
    baseline = results.teacher(base)
    groups: list[tuple[str, list[Result], float | None, float | None]] = [
        (f"{label(name)} ({'baseline' if name == base else 'teacher'})", [result], result.map_area,
         minus(result.map_area, baseline.map_area))
        for name, result in sorted(results.teachers.items(), key=lambda item: item[0] != base)
    ]
    for student in study.shown_students:
        runs = [run for (name, recipe) in results.runs if name == student for run in results.of(name, recipe)]
        recipe = study.headline if results.of(student, study.headline) else PLAIN
        over = spread(minus(run.map_area, results.teacher_of(base, run).map_area)
                      for run in results.of(student, recipe))
        groups.append((label(student), runs, results.mean(student, recipe), over.mean if over else None))
    rows = []
    for name, runs, score_mean, over_baseline in groups:
        params = middle(run.params for run in runs)
        macs = middle(run.macs for run in runs)
        latency = middle(run.latency_ms for run in runs)
        rows.append(
            [
                words(name),
                number(params and params / 1e6, 2),
                changed(params, baseline.params),
                number(macs and macs / 1e9, 2),
                changed(macs, baseline.macs),
                *([number(latency), changed(baseline.latency_ms, latency)] if timed else []),
                number(score_mean),
                number(over_baseline, sign=True),
            ]
        )
    taught = f"of recipe `{study.headline}` where it was run, else alone" if study.headline else "alone"
    notes = [f"{'Speed is 1 / latency of one image. ' if timed else ''}A student's mAP is that {taught}."]
    if ("teacher", base) in results.trainings:
        notes.append(f"A student is held against the {label(base)} of its own seed; {label(base)}'s own mAP is the "
                     "mean of its trainings.")
    if base not in results.teachers:
        notes.append(f"To fill a {DASH}: `pipeline train-teacher {base}`, then `pipeline evaluate`.")
    if timed and study.params.evaluate.latency_runs == 0:
        notes.append("Latency was not measured: set `evaluate.latency_runs`, then `pipeline evaluate`.")
    height, width = study.params.views.size
    own = {name: student.size for name, student in study.params.students.items() if student.size}
    notes += [f"{label(name)} has an input of its own, {own[name][1]}×{own[name][0]} px."
              for name in study.shown_students if name in own]
    against = f"vs {label(base)}"
    return Table(
        key="cost",
        title=f"Size {'and speed ' if timed else ''}against {label(base)}",
        caption=f"One image of {width}×{height} px. {study.scale}.",
        columns=[
            Column(title="Network", numeric=False),
            Column(title="millions", group="Parameters"),
            Column(title=against, group="Parameters"),
            Column(title="billions", group="MACs"),
            Column(title=against, group="MACs"),
            *([Column(title="ms", group="Latency"), Column(title=f"speed {against}", group="Latency")]
              if timed else []),
            Column(title="%", group="mAP@.5"),
            Column(title=against, group="mAP@.5"),
        ],
        rows=best_in_columns(best_in_columns(rows, [1, 3, 5] if timed else [1, 3], lowest=True), [7 if timed else 5]),
        notes=notes,
    )


def _splits(study: Study) -> str:
    test, unseen = (len(study.data.splits.get(split, ())) for split in ("test", "unseen"))
    beside = f" and on {unseen:,} of drawings that nobody trained on (unseen)" if unseen else ""
    return f"AP in percent on {test:,} test images{beside}."


def _fitted(study: Study) -> str:
    if not study.data.splits.get("val"):
        return "The data have no val images, so Val and Train are empty."
    return ("Train is as many training images as val has, without augmentation: far above val, a teacher has "
            "memorised its images and says of them what the ground truth says.")


def _trainings(study: Study, known: list[tuple[str, Result]], *, timed: bool) -> list[list[Cell]]:
    """A row for each time that teachers were trained, or ensembles merged; the best of them all stands out."""
    results = study.results
    rows = [
        [
            words(name if trained is mean else f"{name}, {_whose(study, trained)}"),
            *(number(trained.score(metric)) for metric in (*SHOWN_METRICS, *FITTED)),
            *([_minutes([trained]) if trained.kind == "teacher" else words("")] if timed else []),
        ]
        for name, mean in known
        for trained in sorted(results.trainings.get((mean.kind, str(mean.teacher or mean.ensemble)), [mean]),
                              key=lambda each: (not results.taught(each), results.taught(each)))
    ]
    return best_in_columns(rows, list(range(1, 1 + len(SHOWN_METRICS) + len(FITTED))))


def _whose(study: Study, trained: Result) -> str:
    seeds = [str(seed) for seed in study.results.taught(trained)]
    return f"of seed{'s' if len(seeds) > 1 else ''} {listed(seeds)}" if seeds else "of no seed yet"


def _minutes(runs: list[Result]) -> Cell:
    seconds = middle(run.seconds for run in runs)
    return number(seconds and seconds / 60)


def _gain(study: Study, student: str, recipe: str) -> Cell:
    """Over plain; with the number of fair pairs, where it is not that of all runs."""
    found = spread(study.results.differences(student, recipe))
    return measured(found, sign=True, seeds=found is not None and found.n < len(study.results.of(student, recipe)))


def _mean(values: Iterable[float | None]) -> float | None:
    found = spread(values)
    return found.mean if found else None
