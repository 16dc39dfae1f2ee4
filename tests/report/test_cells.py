import json

import pytest

from pipeline.errors import UserError
from pipeline.report.cells import FILE, Cells

BOTH = "resnet50+hourglass_small"


@pytest.fixture
def screened(student_metrics):
    def make(variation, seed, score, **changes):
        about = {"group": "weights", "variation": variation, "split": "val", **changes}
        return student_metrics("resnet18", BOTH, seed, score, **about)

    return make


def put(root, place, content):
    path = root / "results" / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def test_cells_are_gathered_from_results(project, screened):
    params, root = project
    put(root, "study/weights/resnet18/ours/seed0.json", screened("ours", 0, 30.0))
    cells = Cells().collect(root)
    assert [cell.teacher for cell in cells.teachers] == ["hourglass_small", "resnet50"]
    assert [(cell.recipe, cell.seed) for cell in cells.students] == [("plain", 0), ("plain", 1), (BOTH, 0), (BOTH, 1)]
    assert [(cell.group, cell.variation, cell.map_area) for cell in cells.screening] == [("weights", "ours", 30.0)]
    assert cells.results(params).mean("resnet18", "plain") == 41.0


def test_a_file_of_cells_is_json_with_a_line_for_each_and_reads_back(project, tmp_path):
    cells = Cells().collect(project[1])
    (tmp_path / FILE).write_text(cells.text())
    again = Cells.load(tmp_path)
    assert again.text() == cells.text()
    assert again.results(project[0]).mean("resnet18", BOTH, "unseen.map_area") == 45.5 / 2
    assert sum('"kind"' in line for line in cells.text().splitlines()) == 6
    assert "per_class" not in cells.text()
    assert Cells.load(tmp_path / "nowhere").students == []


def test_results_replace_kept_cells_of_the_same_name_and_leave_the_others(project, student_metrics):
    _, root = project
    kept = Cells().collect(root)
    (root / "results/students/resnet18/plain/seed1/metrics.json").unlink()
    put(root, "students/resnet18/plain/seed0/metrics.json", student_metrics("resnet18", "plain", 0, 11.0))
    put(root, "students/resnet18/plain/seed10/metrics.json", student_metrics("resnet18", "plain", 10, 12.0))
    plain = [(cell.seed, cell.map_area) for cell in kept.collect(root).students if cell.recipe == "plain"]
    assert plain == [(0, 11.0), (1, 42.0), (10, 12.0)]


def test_a_broken_result_names_its_file(project):
    put(project[1], "study/weights/resnet18/ours/seed0.json", {"kind": "student"})
    with pytest.raises(UserError, match=r"ours/seed0\.json: .*Run the command"):
        Cells().collect(project[1])


def test_each_seed_has_its_own_training_of_a_teacher(project, student_metrics, teacher_metrics):
    params, root = project
    cells = Cells()
    for seed, score in ((0, 60.0), (1, 80.0)):
        sha = f"{seed:064}"
        put(root, "teachers/resnet50/metrics.json", teacher_metrics("resnet50", score, weights=sha))
        put(root, "ensembles/both/metrics.json", teacher_metrics(None, score + 5, kind="ensemble", ensemble="both",
                                                                origin={"teachers": {"resnet50": sha}}))
        put(root, f"students/resnet18/{BOTH}/seed{seed}/metrics.json",
            student_metrics("resnet18", BOTH, seed, 50.0, origin={"teachers": {"resnet50": sha, "other": "f" * 64}}))
        cells = cells.collect(root)
    results = Cells.model_validate_json(cells.text()).results(params)
    assert results.teacher("resnet50").map_area == 70.0
    assert results.teacher("resnet50", "unknown").map_area is None
    assert results.teacher("resnet50", f"{1:064}").map_area == 80.0
    assert results.teacher("resnet50").score("val.map_area") == 71.0
    assert results.teacher("resnet50").per_class == {}
    assert results.ensembles["both"].map_area == 75.0
    trained = results.trainings["teacher", "resnet50"]
    assert [(cell.map_area, results.taught(cell)) for cell in trained] == [(60.0, [0]), (80.0, [1])]
    assert [results.taught(cell) for cell in results.trainings["ensemble", "both"]] == [[0], [1]]
    assert ("teacher", "hourglass_small") not in results.trainings


def test_a_training_whose_students_were_taught_again_is_dropped(project, student_metrics, teacher_metrics):
    _, root = project
    cells = Cells()
    for sha in ("0" * 64, "1" * 64):
        put(root, "teachers/resnet50/metrics.json", teacher_metrics("resnet50", 60.0, weights=sha))
        for seed in (0, 1):
            put(root, f"students/resnet18/{BOTH}/seed{seed}/metrics.json",
                student_metrics("resnet18", BOTH, seed, 50.0, origin={"teachers": {"resnet50": sha}}))
        cells = cells.collect(root)
    assert [cell.weights for cell in cells.teachers if cell.teacher == "resnet50"] == ["1" * 64]
