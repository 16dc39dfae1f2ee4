import json

import pytest

from pipeline.errors import UserError
from pipeline.report.arranging import averaged, load_results
from pipeline.report.results import Result

BOTH = "resnet50+hourglass_small"


def test_results_are_read_by_name_recipe_and_seed(project):
    params, root = project
    results = load_results(params, root)
    assert list(results.teachers) == ["resnet50", "hourglass_small"]
    assert list(results.runs) == [("resnet18", "plain"), ("resnet18", BOTH)]
    assert results.seeds == [0, 1]
    assert results.score("resnet18", "plain").mean == 41.0
    assert results.mean("resnet18", BOTH, "unseen.map_area") == 45.5 / 2
    assert results.teacher("resnet50").map_area == 60.0
    assert results.teacher("nobody").map_area is None
    assert results.score(None, None) is None


def test_gains_pair_runs_of_the_same_seed(project, student_metrics):
    params, root = project
    place = root / "results/students/resnet18" / BOTH / "seed7"
    place.mkdir()
    (place / "metrics.json").write_text(json.dumps(student_metrics("resnet18", BOTH, 7, 99.0)))
    assert load_results(params, root).differences("resnet18", BOTH) == [5.0, 4.0]


def test_results_of_other_data_and_unknown_names_are_left_out_and_named(project, student_metrics):
    params, root = project
    for place, content in (
        ("resnet18/plain/seed2", student_metrics("resnet18", "plain", 2, 9.0, data="voc")),
        ("resnet99/plain/seed0", student_metrics("resnet99", "plain", 0, 9.0)),
        ("resnet18/odd/seed0", student_metrics("resnet18", "odd", 0, 9.0)),
    ):
        (root / "results/students" / place).mkdir(parents=True)
        (root / "results/students" / place / "metrics.json").write_text(json.dumps(content))
    results = load_results(params, root)
    assert len(results.of("resnet18", "plain")) == 2
    assert len(results.left_out) == 3
    assert "recipe 'odd'" in results.left_out[0]
    assert "data 'voc'" in results.left_out[1]
    assert "student 'resnet99'" in results.left_out[2]


def test_students_of_another_recipe_of_that_name_are_left_out_and_named(project, student_metrics):
    params, folder = project
    for seed, weight in ((8, 10.0), (9, 7.0)):
        recipe = params.recipes[BOTH].model_dump(mode="json") | {"gone": 3}
        recipe["weights"][3] = weight
        path = folder / f"results/students/resnet18/{BOTH}/seed{seed}/metrics.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(student_metrics("resnet18", BOTH, seed, 50.0, origin={"recipe": recipe})))
    results = load_results(params, folder)
    assert {8, 9} & set(results.runs["resnet18", BOTH]) == {8}
    (reason,) = results.left_out
    assert "was another: weights [100.0, 1.0, 0.1, 7.0], now [100.0, 1.0, 0.1, 10.0] (teach it again" in reason


def test_results_on_another_state_of_the_data_are_left_out_and_named(project, student_metrics):
    params, root = project
    for seed, origin in ((2, {"data": "old"}), (3, {"data": "now"}), (4, {})):
        place = root / f"results/students/resnet18/plain/seed{seed}"
        place.mkdir(parents=True)
        (place / "metrics.json").write_text(json.dumps(student_metrics("resnet18", "plain", seed, 9.0, origin=origin)))
    results = load_results(params, root, "now")
    assert list(results.runs["resnet18", "plain"]) == [0, 1, 3, 4]
    (reason,) = results.left_out
    assert reason.startswith("results/students/resnet18/plain/seed2/metrics.json: it is on another state of data")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"kind": "teacher", "data": "demo"', "JSON"),
        ('{"kind": "teacher", "data": "demo"}', "'teacher'"),
        ('{"kind": "student", "data": "demo", "student": "resnet18"}', "'seed'"),
        ('{"kind": "teacher", "teacher": "resnet50", "data": "demo", "map_area": "high"}', "map_area"),
    ],
)
def test_a_broken_result_is_named(project, text, named):
    params, root = project
    path = root / "results/teachers/resnet50/metrics.json"
    path.write_text(text)
    with pytest.raises(UserError, match="pipeline evaluate") as error:
        load_results(params, root)
    assert str(path) in str(error.value)
    assert named in str(error.value)


def test_without_results_there_is_no_report(project, tmp_path):
    with pytest.raises(UserError, match=r"no metrics\.json: run 'pipeline evaluate'"):
        load_results(project[0], tmp_path / "elsewhere")


def test_a_mean_is_of_every_score_that_is_there(teacher_metrics):
    first, second = (Result.model_validate(teacher_metrics("resnet50", score, unseen=unseen))
                     for score, unseen in ((60.0, None), (70.0, {"map_area": 30.0})))
    mean = averaged([first, second])
    assert (mean.map_area, mean.ap) == (65.0, 32.5)
    assert (mean.score("val.map_area"), mean.score("train.map_area")) == (66.0, 85.0)
    assert mean.score("unseen.map_area") == 30.0
    assert mean.per_class == {}
    assert averaged([first]) is first
