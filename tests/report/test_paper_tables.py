import pytest

from pipeline.report.document import DASH, Spread
from pipeline.report.paper_tables import OnVal, claim_table, table_2, table_3, table_4
from pipeline.report.results import Origin

BOTH = "resnet50+hourglass_small"
RUNS = {
    ("resnet18", "plain"): [40.0, 42.0],
    ("resnet18", BOTH): [45.0, 46.0],
    ("mobilenet_v2", "plain"): [35.0],
    ("mobilenet_v2", BOTH): [34.0],
}


def texts(table):
    return {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}


def test_table_3_stands_beside_the_papers(study):
    table = table_3(study(RUNS))
    rows = texts(table)
    assert rows["ResNet-18"] == ["73.95", "79.82", "+5.87", "41.0 ± 1.4", "45.5 ± 0.7", "+4.5 ± 0.7"]
    assert rows["MobileNetV2"] == ["66.93", "78.23", "+11.30", "35.0", "34.0", "−1.0"]
    assert rows["ResNet-50 (teacher)"] == ["80.22", "", "", "60.0", "", ""]
    assert rows["Hourglass (small) (teacher)"] == ["", "", "", "80.0", "", ""]
    assert [column.group for column in table.columns] == ["", *["Paper"] * 3, *["Ours: demo"] * 3]
    assert "Ours: demo, 2 classes" in table.caption
    assert "W = (100, 1, 0.1, 10)" in " ".join(table.notes)


def test_table_3_names_whose_features_are_learnt_and_shows_the_teachers_that_taught(study, tree):
    tree["recipes"][BOTH]["features_of"] = ["hourglass_small"]
    found = study(RUNS)
    assert "and the features of Hourglass (small)." in " ".join(table_3(found).notes)
    runs, teacher = found.results.runs["resnet18", BOTH], found.results.teachers["resnet50"]
    found.results.trainings["teacher", "resnet50"] = [
        teacher.model_copy(update={"weights": sha, "map_area": score}) for sha, score in (("a", 50.0), ("b", 70.0))]
    for seed, run in runs.items():
        runs[seed] = run.model_copy(update={"origin": Origin(teachers={"resnet50": "b"})})
    del found.results.runs["mobilenet_v2", BOTH]
    assert texts(table_3(found))["ResNet-50 (teacher)"][3] == "70.0"


def test_the_better_of_alone_and_taught_stands_out(study):
    rows = {row[0].text: row for row in table_3(study(RUNS)).rows}
    assert [cell.best for cell in rows["ResNet-18"]] == [False, False, True, False, False, True, False]
    assert [cell.best for cell in rows["MobileNetV2"]] == [False, False, True, False, True, False, False]


def test_missing_cells_are_dashes_with_a_command(study):
    table = table_2(study(RUNS))
    rows = texts(table)
    assert rows["ResNet-18"] == ["73.95", "77.96", "+4.01", "41.0 ± 1.4", DASH, DASH]
    assert rows["ResNet-34"] == ["79.83", "83.01", "+3.18", DASH, DASH, DASH]
    notes = " ".join(table.notes)
    assert "`pipeline distill --student resnet18 --student mobilenet_v2 --recipe resnet50`" in notes
    assert "`pipeline profile study`" in notes


def test_students_that_the_paper_does_not_have_follow(study, tree):
    tree["students"]["mine"] = {"model": "resnet18", "arch": {"deconv": [64, 64, 64]}}
    rows = texts(table_3(study(RUNS | {("mine", "plain"): [20.0]})))
    assert rows["ResNet-18"][3] == "41.0 ± 1.4"
    assert rows["mine"][3] == "20.0"


def test_the_papers_scale_needs_no_caution_and_a_profiles_name_is_no_scale(study, papers_study):
    assert "compare gains" in table_2(study(RUNS, changes={"profile": "voc"})).caption
    assert "compare gains" not in table_2(papers_study(RUNS)).caption


def test_table_4_is_by_weights(study):
    table = table_4(study({("resnet18", f"{BOTH}-paper"): [44.0, 46.0]}))
    rows = [[cell.text for cell in row] for row in table.rows]
    assert rows[0] == ["1000", "1", "0.1", "100", "76.36", "45.0 ± 1.4"]
    assert rows[5] == ["0.1", "10", "1000", "1", "69.88", DASH]
    assert [row[4].best for row in table.rows] == [True, *[False] * 5]
    assert "taught by ResNet-50 and Hourglass (small)" in " ".join(table.notes)


def test_w_that_no_recipe_has_are_filled_by_a_screening(study, tree):
    tree["recipes"]["resnet50"]["weights"] = [1, 1, 1, 1]
    notes = " ".join(table_4(study({})).notes)
    assert f"`pipeline distill --student resnet18 --recipe {BOTH}-paper`" in notes
    assert "in docs/study: `pipeline profile study`, `pipeline study screen weights`, then" in notes
    notes = " ".join(table_4(study({}, changes={"profile": "study"}),
                             OnVal(f"{BOTH}-paper", {"table4-1": Spread(mean=30.0)})).notes)
    assert "in docs/study: `pipeline study screen weights`, then `pipeline study collect`" in notes
    assert "distill" not in notes


def test_table_4_of_a_screening_names_the_teachers_of_its_recipe(study):
    run = study({("resnet18", "resnet50"): [44.0]})
    notes = " ".join(table_4(run, OnVal(f"{BOTH}-paper", {"table4-1": Spread(mean=30.0)})).notes)
    assert "Ours are taught by ResNet-50 and Hourglass (small)." in notes


def test_the_claim_compares_size_speed_and_map(study):
    rows = texts(claim_table(study(RUNS, params=1_012_000, latency_ms=4.0)))
    assert rows == {
        "Parameters": ["−74.7 %", "−74.7 %"],
        "Inference speed": ["+70.5 %", "+150.0 %"],
        "mAP, points": ["−1.99", "−26.00"],
    }


@pytest.mark.parametrize("teachers", [{}, {"resnet50": 60.0}])
def test_the_claim_without_numbers(study, teachers):
    table = claim_table(study({}, teachers))
    assert [row[2].text for row in table.rows] == [DASH] * 3
    assert "--student mobilenet_v2" in " ".join(table.notes)
    assert "128/64/64, the teacher's 256/256/256" in table.notes[0]
