import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.report.claims import interval, recovered

#: Quantiles of Student's t at 97.5 % as printed tables have them, by degrees of freedom.
T = {2: 4.303, 4: 2.776, 8: 2.306}


def test_one_student_is_the_paired_t_interval():
    found = interval({"a": [1.0, 2.0, 3.0]})
    assert found.mean == 2.0
    assert found.half == pytest.approx(T[2] * 1 / math.sqrt(3), rel=1e-3)
    assert (found.pairs, found.students) == (3, 1)
    assert found.verdict == "undecided"
    # t = 2 sqrt(3) at 2 degrees of freedom, where 1 - F(t) = (1 - t / sqrt(t^2 + 2)) / 2
    assert found.p == pytest.approx(1 - math.sqrt(12 / 14))


def test_differences_between_students_do_not_widen_the_interval():
    # within: 2 each, pooled variance 1 at 4 degrees of freedom; SE = sqrt(1 * (1/3 + 1/3)) / 2
    found = interval({"a": [1.0, 2.0, 3.0], "b": [101.0, 102.0, 103.0]})
    assert found.mean == 52.0
    assert found.half == pytest.approx(T[4] * math.sqrt(2 / 3) / 2, rel=1e-3)
    assert found.verdict == "holds"


def test_students_count_alike_however_many_seeds_they_have():
    # squares 2 + 0 + 8 at 2 + 0 + 2 degrees of freedom: variance 2.5; SE = sqrt(2.5 (1/3 + 1 + 1/3)) / 3
    found = interval({"a": [1.0, 2.0, 3.0], "b": [10.0], "c": [-2.0, 0.0, 2.0], "none": []})
    assert found.mean == 4.0
    assert found.half == pytest.approx(T[4] * math.sqrt(2.5 * 5 / 3) / 3, rel=1e-3)
    assert (found.pairs, found.students) == (7, 3)


def test_four_students_and_three_seeds_have_eight_degrees_of_freedom():
    found = interval({name: [0.0, 1.0, 2.0] for name in "abcd"})
    assert found.half == pytest.approx(T[8] * math.sqrt(4 / 3) / 4, rel=1e-3)


def test_a_loss_does_not_hold_and_its_mirror_does():
    worse, better = interval({"a": [-1.0, -1.1, -1.2]}), interval({"a": [1.0, 1.1, 1.2]})
    assert (worse.verdict, better.verdict) == ("does not hold", "holds")
    assert worse.p == pytest.approx(better.p)
    assert worse.low == pytest.approx(-better.high)


def test_single_pairs_decide_nothing():
    found = interval({"a": [5.0], "b": [7.0]})
    assert (found.mean, found.half, found.p, found.low, found.high) == (6.0, None, None, None, None)
    assert found.verdict == "too few pairs"
    assert interval({}) is interval({"a": []}) is None


def test_one_student_may_lean_on_the_spread_of_the_others_and_no_more():
    spreads = {"a": [5.0, 6.0], "b": [7.0, 7.5]}
    assert interval({**spreads, "c": [6.0]}).verdict == "holds"
    alone = interval({**spreads, "c": [6.0], "d": [6.5]})
    assert (alone.pairs, alone.half, alone.p) == (6, None, None)


def test_pairs_that_are_all_alike():
    assert interval({"a": [2.0, 2.0]}).verdict == "holds"
    assert interval({"a": [2.0, 2.0]}).p == 0.0
    assert (interval({"a": [0.0, 0.0]}).verdict, interval({"a": [0.0, 0.0]}).p) == ("undecided", 1.0)


@given(st.dictionaries(st.sampled_from("abc"), st.lists(st.floats(-50, 50), min_size=2, max_size=5), min_size=1))
def test_the_verdict_is_that_of_the_p_value(differences):
    found = interval(differences)
    if found.half > 1e-6 and abs(found.p - 0.05) > 1e-6:
        assert (found.p < 0.05) == (found.verdict != "undecided")


@pytest.mark.parametrize(("numbers", "share"), [
    ((60.0, 40.0, 80.0), 50.0), ((30.0, 40.0, 80.0), -25.0), ((90.0, 40.0, 80.0), 125.0),
    ((60.0, 40.0, 40.0), None), ((60.0, 40.0, 30.0), None), ((None, 40.0, 80.0), None),
])
def test_the_gap_that_is_recovered(numbers, share):
    assert recovered(*numbers) == share
