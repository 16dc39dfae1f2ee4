import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.report.document import (
    DASH,
    Cell,
    Spread,
    best_in_columns,
    best_of,
    changed,
    counted,
    listed,
    measured,
    number,
    shown,
)


@pytest.mark.parametrize(
    ("value", "digits", "sign", "text"),
    [
        (58.34, 1, False, "58.3"),
        (24000, 0, False, "24,000"),
        (3.2, 1, True, "+3.2"),
        (-3.2, 1, True, "−3.2"),
        (-0.04, 1, True, "0.0"),
        (0.0, 1, True, "0.0"),
    ],
)
def test_a_number_in_figures(value, digits, sign, text):
    assert shown(value, digits, sign=sign) == text


def test_a_measured_number_shows_its_spread_and_keeps_what_is_behind_it():
    cell = measured(Spread(mean=58.34, std=1.26, n=3))
    assert (cell.text, cell.value, cell.std, cell.n) == ("58.3 ± 1.3", 58.34, 1.26, 3)
    assert measured(Spread(mean=58.34)).text == "58.3"
    assert measured(Spread(mean=58.34, std=1.0, n=2), seeds=False).n is None


def test_what_was_not_measured_is_a_dash():
    assert measured(None).text == number(None).text == changed(None, 2.0).text == changed(2.0, None).text == DASH


def test_a_change_is_in_percent():
    assert changed(8.7, 34.4).text == "−74.7 %"
    assert changed(170.5, 100).text == "+70.5 %"


def test_the_best_stands_out_ties_included():
    cells = best_of([number(1.0), number(3.0), number(None), number(3.0)])
    assert [cell.best for cell in cells] == [False, True, False, True]
    assert [cell.best for cell in best_of([number(1.0), number(3.0)], lowest=True)] == [True, False]


def test_nothing_is_best_without_a_competitor():
    assert not best_of([number(None), number(3.0)])[1].best


@given(st.lists(st.tuples(st.floats(-100, 100), st.floats(-100, 100)), min_size=2, max_size=6))
def test_best_in_columns_touches_those_columns_alone(values):
    rows = [[number(a), number(b)] for a, b in values]
    marked = best_in_columns(rows, [1])
    assert max(b for _, b in values) == next(row[1].value for row in marked if row[1].best)
    assert not any(row[0].best for row in marked)
    assert [[cell.text for cell in row] for row in marked] == [[cell.text for cell in row] for row in rows]


def test_words():
    assert [listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])] == ["a", "a and b", "a, b and c"]
    assert [counted(1, "seed"), counted(2000, "class", "classes")] == ["1 seed", "2,000 classes"]
    assert Cell(text="x").best is False
