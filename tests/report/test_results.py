import json
import math
from statistics import fmean, stdev

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.report.arranging import load_results
from pipeline.report.results import Result, Results, load_log, load_logs, mean_log, middle, minus, spread

BOTH = "resnet50+hourglass_small"


@given(st.lists(st.floats(0, 100), min_size=2, max_size=10))
def test_spread_is_mean_and_sample_deviation_of_what_is_there(values):
    found = spread([None, *values])
    assert found.n == len(values)
    assert found.mean == pytest.approx(fmean(values))
    assert found.std == pytest.approx(stdev(values))


def test_one_run_has_no_spread_and_none_has_nothing():
    assert (spread([4.0]).mean, spread([4.0]).std, spread([4.0]).n) == (4.0, None, 1)
    assert spread([None]) is None
    assert middle([None, 3, 1, 2]) == 2
    assert middle([]) is None
    assert minus(3, None) is None


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


def test_logs_have_numbers_and_gaps(project):
    params, root = project
    teachers, students = load_logs(params, root)
    assert list(teachers) == ["resnet50", "hourglass_small"]
    assert list(students) == [("resnet18", "plain"), ("resnet18", BOTH)]
    log = students["resnet18", BOTH]
    assert log["step"].tolist() == [10, 20, 30]
    assert log["kd_wh"][0] == pytest.approx(0.1)
    assert math.isnan(log["grad_norm/heatmap"][0])


def test_a_mean_log_has_the_steps_and_columns_of_all():
    one = {"step": np.array([1.0, 2, 3]), "loss": np.array([5.0, 4, 3]), "wh": np.array([1.0, 1, 1])}
    other = {"step": np.array([2.0, 3, 4]), "loss": np.array([2.0, 1, 0])}
    mean = mean_log([one, other, {}])
    assert list(mean) == ["step", "loss"]
    assert mean["step"].tolist() == [2, 3]
    assert mean["loss"].tolist() == [3, 2]
    assert mean_log([]) == {}


def test_a_file_that_is_no_log_is_named(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("step,loss\n1,heavy\n")
    with pytest.raises(UserError, match=r"log\.csv is no training log"):
        load_log(path)
    path.write_text("")
    assert load_log(path) == {}


def test_a_student_has_one_latency_whatever_taught_it():
    def run(latency):
        return Result(kind="student", student="any", recipe="any", seed=0, data="demo", latency_ms=latency)

    results = Results({}, {("resnet18", "plain"): {0: run(12.0), 1: run(9.0)}, ("resnet18", BOTH): {0: run(8.0)},
                           ("mobilenet_v2", BOTH): {0: run(1.0)}})
    assert results.latency("resnet18") == 9.0
    assert results.latency("resnet34") is None
