"""From results on disk to the report's folder."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.data import load_data
from pipeline.devices import machine
from pipeline.inform import Progress, no_progress
from pipeline.params import Params
from pipeline.report import figures, summary
from pipeline.report.arranging import load_results
from pipeline.report.bill import bill_sections
from pipeline.report.document import Document, Picture, Section
from pipeline.report.page import render_html, render_markdown, tables_json
from pipeline.report.paper_tables import claim_table, table_2, table_3, table_4
from pipeline.report.pictures import write_pictures
from pipeline.report.results import Log, load_logs
from pipeline.report.study import Study
from pipeline.report.tables import SHOWN_METRICS, cost_table, per_class_table, students_table, teachers_table

TITLE = "CenterNet Distill: light detectors taught from stored targets"


def write_report(params: Params, root: Path, out: Path, *, progress: Progress = no_progress) -> None:
    """Writes the report on everything that was trained and evaluated.

    Args:
        params: names, scale, and what to show (`params.report`).
        root: the project's folder, with data/, models/ and results/.
        out: receives index.html, report.md, tables.json, figures/*.png and plots/*.csv.
        progress: told how far it is.

    Raises:
        UserError: there are no results, or a file that is read is broken.
    """
    data = load_data(root / "data" / params.data.name)
    study = Study(params, load_results(params, root, data.fingerprint), data)
    teacher_logs, student_logs = load_logs(study.results, root)
    out.mkdir(parents=True, exist_ok=True)
    pictures, notes = write_pictures(study, root, out, progress)
    document = Document(
        title=TITLE,
        subtitle=study.scale.removeprefix("Ours: "),
        summary=summary.summarise(study),
        facts=[*summary.facts(study), ("Machine", machine())],
        sections=[
            Section(
                key="results",
                title="Teachers and students",
                tables=[make(study) for make in (teachers_table, students_table, per_class_table)],
                pictures=_there(figures.score_figure(study, out)),
            ),
            Section(
                key="cost",
                title="Size and speed",
                tables=[cost_table(study), claim_table(study)],
                pictures=_there(figures.size_figure(study, out)),
            ),
            *bill_sections(study, root),
            Section(
                key="paper",
                title="Beside the paper",
                text=["The paper's numbers stand left, ours right; best of each comparison emphasised."],
                tables=[make(study) for make in (table_2, table_3, table_4)],
            ),
            Section(
                key="pictures",
                title="What they see",
                text=[_picture_words(study), *notes],
                pictures=pictures,
            ),
            Section(
                key="training",
                title="Training",
                pictures=_there(
                    figures.teacher_curves(teacher_logs, out),
                    figures.student_curves(study, student_logs, out),
                    figures.distillation_curves(study, student_logs, out),
                ),
            ),
        ],
    )
    (out / "index.html").write_text(render_html(document), encoding="utf-8")
    (out / "report.md").write_text(render_markdown(document), encoding="utf-8")
    (out / "tables.json").write_text(tables_json(document), encoding="utf-8")
    _write_plots(study, teacher_logs, student_logs, out / "plots")


def _there(*pictures: Picture | None) -> list[Picture]:
    return [picture for picture in pictures if picture is not None]


def _picture_words(study: Study) -> str:
    return (
        "Test images, evenly spaced over the split and not chosen. Heatmaps: the colour is the class, the "
        f"brightness its probability. Detections score {study.params.report.score:g} or more; dotted boxes "
        "are difficult objects, which count neither way."
    )


def _write_plots(
    study: Study, teacher_logs: Mapping[str, Log], student_logs: Mapping[tuple[str, str], Log], folder: Path
) -> None:
    """What `dvc plots` draws: students.csv with every run, and the loss curves, a file for each."""
    (folder / "loss").mkdir(parents=True, exist_ok=True)
    scores = {metric: metric.replace(".", "_") for metric in SHOWN_METRICS}
    _write_csv(
        folder / "students.csv",
        (
            {"student": student, "recipe": recipe, "seed": seed, "run": f"{student} {recipe} seed{seed}"}
            | {column: run.score(metric) for metric, column in scores.items()}
            for (student, recipe), runs in study.results.runs.items()
            for seed, run in runs.items()
        ),
        ["student", "recipe", "seed", "run", *scores.values()],
    )
    named = {f"teacher-{name}": log for name, log in teacher_logs.items()}
    named |= {f"student-{student}-{recipe}": log for (student, recipe), log in student_logs.items()}
    for name, log in named.items():
        rows = ({column: log[column][row] for column in log} for row in range(len(log["step"])))
        _write_csv(folder / "loss" / f"{name}.csv", rows, list(log))


def _write_csv(path: Path, rows: Iterable[Mapping[str, Any]], columns: list[str]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        for row in rows:  # a value that is not there is an empty field
            writer.writerow({key: value for key, value in row.items() if value == value})
