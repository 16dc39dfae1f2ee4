from pipeline.report.document import DASH
from pipeline.report.results import Origin, Result
from pipeline.report.tables import cost_table, per_class_table, students_table, teachers_table

BOTH = "resnet50+hourglass_small"
RUNS = {("resnet18", "plain"): [40.0, 42.0], ("resnet18", BOTH): [45.0, 46.0], ("mobilenet_v2", "plain"): [35.0]}


def texts(table):
    return [[cell.text for cell in row] for row in table.rows]


def test_teachers_that_were_trained_several_times_have_a_row_for_each(study):
    found = study({("resnet18", "plain"): [40.0, 42.0, 44.0]})
    first, second = (Result(kind="teacher", teacher="resnet50", data="demo", map_area=score, weights=str(score))
                     for score in (60.0, 70.0))
    found.results.trainings["teacher", "resnet50"] = [first, second]
    for seed, run in found.results.runs["resnet18", "plain"].items():
        origin = Origin(teachers={"resnet50": "60.0"}) if seed < 2 else None
        found.results.runs["resnet18", "plain"][seed] = run.model_copy(update={"origin": origin})
    table = teachers_table(found)
    assert [row[:2] for row in texts(table)] == [
        ["ResNet-50, of seeds 0 and 1", "60.0"], ["ResNet-50, of no seed yet", "70.0"], ["Hourglass (small)", "80.0"]]
    assert "mean of its trainings" in table.notes[0]


def test_teachers_with_every_metric(study):
    table = teachers_table(study(RUNS))
    assert texts(table)[0] == ["ResNet-50", "60.0", "59.0", "30.0", "20.0", "30.0", "61.0", "80.0", "5.0"]
    assert [cell.best for cell in table.rows[1]] == [False, *[True] * 7, False]
    assert table.notes == []
    assert "(unseen)" in table.caption


def test_a_teacher_of_some_classes_is_said_to_be_one(study, tree):
    tree["teachers"]["resnet50"]["classes"] = ["wolf", "cat"]
    tree["ensembles"]["both"]["heatmap"] = "class-ap"
    assert teachers_table(study(RUNS)).notes == ["ResNet-50 knows cat alone, and its mAP is over all classes."]


def test_an_ensemble_stands_below_its_teachers(study):
    table = teachers_table(study(RUNS, ensembles={"both": 85.0}))
    assert texts(table)[2][:3] == ["both: ResNet-50 & Hourglass (small)", "85.0", "84.0"]
    assert [row[1].best for row in table.rows] == [False, True, False]  # alone of its kind: nothing to be ahead of
    assert "An ensemble is scored" in table.caption


def test_train_is_explained_where_there_is_a_val_to_compare_it_with(study):
    found = study(RUNS)
    assert "no val images" in teachers_table(found).caption
    found.data.splits["val"] = found.data.splits["test"]
    assert "as many training images as val has" in teachers_table(found).caption


def test_a_teacher_that_was_not_trained(study):
    table = teachers_table(study(RUNS, {"resnet50": 60.0}))
    assert texts(table)[1] == ["Hourglass (small)", *[DASH] * 8]
    assert "`pipeline train-teacher hourglass_small`" in table.notes[0]


def test_students_with_gain_and_seeds(study):
    table = students_table(study(RUNS))
    assert texts(table)[0] == [
        "ResNet-18", "nobody", "41.0 ± 1.4", "40.0 ± 1.4", "20.5 ± 0.7", "13.7 ± 0.5", "20.5 ± 0.7", "", "2", "5.0",
    ]  # fmt: skip
    assert texts(table)[1][1] == "ResNet-50 & Hourglass (small)"
    assert texts(table)[1][7] == "+4.5 ± 0.7"
    assert [row[2].best for row in table.rows] == [False, True, False]
    table = students_table(study({**RUNS, ("resnet18", BOTH): [45.0]}))  # of one seed, beside two
    assert [row[2].best for row in table.rows] == [False, False, False]


def test_what_was_left_out_is_said(study):
    found = study(RUNS)
    found.results.left_out.append("results/x: it is on data 'voc'")
    assert "Left out: results/x" in students_table(found).notes[0]


def test_every_class(study):
    table = per_class_table(study(RUNS))
    assert [column.title for column in table.columns] == ["Network", "all", "cat", "dog"]
    assert texts(table)[0] == ["ResNet-50 (teacher)", "60.0", "65.0", "55.0"]
    assert texts(table)[2] == ["ResNet-18 alone", "41.0", "46.0", "36.0"]


def test_a_class_without_objects_is_a_dash(study):
    found = study(RUNS, per_class={"cat": None, "dog": 7.0})
    assert texts(per_class_table(found))[2] == ["ResNet-18 alone", "41.0", DASH, "7.0"]


def test_costs_are_compared_with_the_baseline(study):
    table = cost_table(study(RUNS, params=1_000_000, macs=500_000_000, latency_ms=5.0))
    rows = texts(table)
    assert rows[0][:3] == ["ResNet-50 (baseline)", "4.00", "0.0 %"]
    assert rows[2] == ["ResNet-18", "1.00", "−75.0 %", "0.50", "−75.0 %", "5.0", "+100.0 %", "45.5", "−14.5"]
    assert rows[3][7:] == ["35.0", "−25.0"]
    assert [row[1].best for row in table.rows] == [False, False, True, True]


def test_a_student_is_held_against_the_baseline_that_taught_it(study):
    found = study(RUNS)
    teacher = found.results.teachers["resnet50"]
    found.results.trainings["teacher", "resnet50"] = [
        teacher.model_copy(update={"weights": sha, "map_area": score}) for sha, score in (("a", 50.0), ("b", 70.0))]
    for seed, run in (runs := found.results.runs["resnet18", found.headline]).items():
        runs[seed] = run.model_copy(update={"origin": Origin(teachers={"resnet50": "b"})})
    table = cost_table(found)
    assert texts(table)[2][7:] == ["45.5", "−24.5"]
    assert "of its own seed" in " ".join(table.notes)


def test_latency_that_was_not_measured(study):
    table = cost_table(study(RUNS, latency_ms=None, changes={"evaluate": {"latency_runs": 0}}))
    assert texts(table)[2][5:7] == [DASH, DASH]
    assert "evaluate.latency_runs" in " ".join(table.notes)


def test_a_baseline_without_result(study):
    table = cost_table(study(RUNS, {}))
    assert texts(table)[0][2] == DASH
    assert "`pipeline train-teacher resnet50`" in " ".join(table.notes)
