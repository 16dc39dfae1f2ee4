import math
import shutil
from statistics import fmean, stdev

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.report.arranging import load_results
from pipeline.report.results import (
    Result,
    Results,
    calculated_alike,
    fair,
    load_log,
    load_logs,
    mean_log,
    middle,
    minus,
    spread,
)

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


def test_logs_have_numbers_and_gaps(project):
    params, root = project
    results = load_results(params, root)
    teachers, students = load_logs(results, root)
    assert list(teachers) == ["resnet50", "hourglass_small"]
    assert list(students) == [("resnet18", "plain"), ("resnet18", BOTH)]
    log = students["resnet18", BOTH]
    assert log["step"].tolist() == [10, 20, 30]
    assert log["kd_wh"][0] == pytest.approx(0.1)
    assert math.isnan(log["grad_norm/heatmap"][0])


def test_logs_are_of_what_has_results(project):
    """A student that is left out of the tables is not in the curves."""
    params, root = project
    results = load_results(params, root)
    _, before = load_logs(results, root)
    own = root / f"models/students/resnet18/{BOTH}"
    shutil.copytree(own / "seed0", own / "seed7")
    path = own / "seed7/log.csv"
    path.write_text(path.read_text().replace("0.1", "900"))
    _, after = load_logs(results, root)
    assert np.array_equal(before["resnet18", BOTH]["kd_wh"], after["resnet18", BOTH]["kd_wh"])
    del results.runs["resnet18", "plain"]
    assert list(load_logs(results, root)[1]) == [("resnet18", BOTH)]


def test_a_mean_log_has_the_steps_and_columns_of_all():
    one = {"step": np.array([1.0, 2, 3]), "loss": np.array([5.0, 4, 3]), "wh": np.array([1.0, 1, 1])}
    other = {"step": np.array([2.0, 3, 4]), "loss": np.array([2.0, 1, 0])}
    mean = mean_log([one, other, {}])
    assert list(mean) == ["step", "loss"]
    assert mean["step"].tolist() == [2, 3]
    assert mean["loss"].tolist() == [3, 2]
    assert mean_log([]) == {}
    assert mean_log([{"step": np.array([30.0])}, {"step": np.array([40.0])}]) == {}


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


def origin(**changes):
    return {"code": "c", "data": "d", "views": "v", "precision": "32-true", "teachers": {"a": "1"},
            "training": {"lr": 5e-4, "size": [64, 64]}} | changes


@pytest.mark.parametrize(("changes", "same"), [
    ({}, True),
    ({"passes": 12000}, False),
    ({"origin": None}, True),
    ({"origin": origin(code="other")}, True),
    ({"origin": origin(teachers={})}, True),
    ({"origin": origin(teachers={"a": "1", "b": "2"})}, True),
    ({"origin": origin(teachers={"a": "2"})}, False),
    ({"origin": origin(views="w")}, False),
    ({"origin": origin(views={"size": [64, 64]})}, True),
    ({"origin": origin(data="e")}, False),
    ({"origin": origin(precision="bf16-mixed")}, False),
    ({"origin": origin(precision=None)}, True),
    ({"origin": origin(processes=1)}, True),  # as those that do not say it
    ({"origin": origin(processes=2)}, False),
    ({"origin": origin(training={"lr": 1e-3, "batch": 16})}, False),
    ({"origin": origin(training={"lr": 5e-4, "later": True})}, True),
])
def test_pairs_of_other_stores_or_lengths_are_not_fair(student_metrics, changes, same):
    one = Result.model_validate(student_metrics("resnet18", BOTH, 0, 50.0, origin=origin()))
    other = Result.model_validate(student_metrics("resnet18", "plain", 0, 40.0) | {"origin": origin()} | changes)
    assert fair(one, other) is fair(other, one) is same
    otherwise = [{"origin": origin(precision="bf16-mixed")}, {"origin": origin(processes=2)}]
    assert calculated_alike(one, other) is (changes not in otherwise)


def test_only_fair_pairs_say_what_a_recipe_adds(student_metrics):
    def runs(recipe, *scores, **changes):
        return {seed: Result.model_validate(student_metrics("resnet18", recipe, seed, score) | changes)
                for seed, score in enumerate(scores)}

    taught = runs(BOTH, 50.0, 52.0, 54.0)
    plain = runs("plain", 40.0, 41.0) | {2: runs("plain", 0.0, passes=7)[0]}
    results = Results({}, {("resnet18", BOTH): taught, ("resnet18", "plain"): plain})
    assert results.differences("resnet18", BOTH) == [10.0, 11.0]


def test_fresh_views_have_flips_of_their_own(student_metrics):
    def run(**changes):
        return Result.model_validate(student_metrics("resnet18", BOTH, 0, 50.0, origin=origin(**changes)))

    flipped, unflipped = {"lr": 5e-4, "flip": True}, {"lr": 5e-4, "flip": False}
    stored, fresh = run(training=flipped), run(training=unflipped, views={"size": [64, 64]})
    assert fair(stored, fresh)
    assert fair(fresh, stored)
    assert not fair(stored, run(training=unflipped))
