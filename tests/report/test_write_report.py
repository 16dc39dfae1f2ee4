import csv
from html import unescape

import pytest

from pipeline.errors import UserError
from pipeline.report import write_report
from pipeline.report.document import Document

BOTH = "resnet50+hourglass_small"


@pytest.fixture(scope="module")
def report(make_project, add_weights, tmp_path_factory):
    params, root = make_project(tmp_path_factory.mktemp("report"))
    add_weights(
        root,
        ["teachers/resnet50", "teachers/hourglass_small", "students/resnet18/plain/seed0",
         f"students/resnet18/{BOTH}/seed0"],
    )  # fmt: skip
    out = root / "report"
    write_report(params, root, out)
    return out


def test_the_report_is_complete(report):
    html = unescape((report / "index.html").read_text())
    text = (report / "report.md").read_text()
    document = Document.model_validate_json((report / "tables.json").read_text())
    assert [section.key for section in document.sections] == [
        "results", "cost", "bill", "paper", "pictures", "training"]
    tables = [table for section in document.sections for table in section.tables]
    assert [table.key for table in tables] == [
        "teachers", "students", "per-class", "cost", "claim", "bill-epochs", "table-2", "table-3", "table-4",
    ]  # fmt: skip
    for table in tables:
        assert all(len(row) == len(table.columns) for row in table.rows)
        assert table.title in html
        assert table.title in text
    assert "Whether distillation helps is not settled" in html
    assert "Whether distillation helps is not settled" in text


def test_every_figure_is_there_and_none_is_forgotten(report):
    document = Document.model_validate_json((report / "tables.json").read_text())
    pictures = [picture for section in document.sections for picture in section.pictures]
    named = {file for picture in pictures for file in (picture.light, picture.dark)}
    assert named == {f"figures/{path.name}" for path in (report / "figures").iterdir()}
    html = (report / "index.html").read_text()
    assert all(file in html for file in named)


def test_plots_for_dvc(report):
    with (report / "plots/students.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["run"] for row in rows] == [f"resnet18 {recipe} seed{k}" for recipe in ("plain", BOTH) for k in (0, 1)]
    assert rows[0]["map_area"] == "40.0"
    assert rows[0]["unseen_map_area"] == "20.0"
    assert sorted(path.name for path in (report / "plots/loss").iterdir()) == [
        f"student-resnet18-{recipe}.csv" for recipe in ("plain", BOTH)
    ] + ["teacher-hourglass_small.csv", "teacher-resnet50.csv"]
    with (report / "plots/loss/teacher-resnet50.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["10.0", "20.0", "30.0"]
    assert rows[0]["grad_norm/heatmap"] == ""


def test_nothing_is_written_without_results(project, tmp_path):
    params, root = project
    for path in root.glob("results/**/metrics.json"):
        path.unlink()
    with pytest.raises(UserError, match=r"metrics\.json"):
        write_report(params, root, tmp_path / "report")
    assert not (tmp_path / "report").exists()
