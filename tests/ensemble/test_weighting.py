import numpy as np
import pytest

from pipeline.ensemble.weighting import agreement_weights, class_weights, rule_of

NO_PEAKS = np.zeros((2, 3, 7), np.float32)


def merged(kind, *heatmaps, peaks=NO_PEAKS, **given):
    return rule_of(kind, **given)(np.array(heatmaps, np.float32), peaks).heatmap


def plane(value, height=4, width=6):
    return np.full((1, height, width), value)


@pytest.mark.parametrize(("kind", "expected"), [
    ("mean", 0.5), ("max", 0.8), ("confidence", np.sqrt((0.8**2 + 0.2**2) / 2)), ("class-ap", 0.75 * 0.8 + 0.25 * 0.2)])
def test_a_cell_by_hand(kind, expected):
    shares = class_weights([{"cat": 60.0}, {"cat": 20.0}], ["cat"])
    found = merged(kind, plane(0.8), plane(0.2), shares=shares)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_confidence_rises_with_every_teacher_and_has_no_ring():
    unsure = np.linspace(0, 1, 101)
    values = [merged("confidence", plane(0.9), plane(p))[0, 0, 0] for p in unsure]
    assert np.all(np.diff(values) > 0)
    away = np.abs(np.arange(-8, 9))
    wide, narrow = 0.9 * np.exp(-away**2 / 50), 0.3 * np.exp(-away**2 / 2)
    assert merged("confidence", [[wide]], [[narrow]]).argmax() == 8


def test_class_weights_are_shares_per_class_and_equal_where_nobody_finds_any():
    shares = class_weights([{"cat": 60.0, "dog": 0.0, "hen": None, "cow": 0.0},
                            {"cat": 20.0, "dog": 50.0, "hen": None, "cow": 0.0}], ["cat", "dog", "hen", "cow"])
    np.testing.assert_allclose(shares.sum(axis=0), 1)
    np.testing.assert_allclose(shares[0], [0.75, 0, 0.5, 0.5], atol=1e-3)
    assert np.all(shares > 0)


def test_a_class_belongs_to_those_that_know_it_however_badly():
    for ap in (50.0, 0.05, 0.0, None):
        shares = class_weights([{"cat": ap}, {}, {"cat": ap}], ["cat"])
        np.testing.assert_allclose(shares[:, 0], [0.5, 0, 0.5], atol=1e-6)
        np.testing.assert_allclose(merged("class-ap", plane(0.8), plane(0.0), plane(0.8), shares=shares,
                                          peaks=np.zeros((3, 3, 7), np.float32)), 0.8, rtol=1e-5)


def peak(x, y, w, h, score, label=0, width=6):
    return [y * width + x, label, score, w, h, 0.5, 0.5]


def teachers(*rows):
    peaks = np.zeros((len(rows), 3, 7), np.float32)
    for mine, given in zip(peaks, rows, strict=True):
        mine[: len(given)] = np.reshape(given, (-1, 7))
    return peaks


def test_agreement_is_the_best_score_times_overlap_over_peaks_of_the_class():
    boxes, labels = np.array([[1.5, 0.5, 3.5, 2.5]]), np.array([0])
    peaks = teachers([peak(2, 1, 2, 2, 0.9), peak(2, 1, 2, 2, 0.99, label=1)],
                     [peak(2, 1, 2, 1, 0.8), peak(4, 2, 2, 2, 0.9)])
    q = np.array([0.9, 0.8 * 0.5])
    np.testing.assert_allclose(agreement_weights(peaks, boxes, labels, 6)[:, 0], q / q.sum(), rtol=1e-6)


def test_of_three_teachers_one_that_misses_the_object_hardly_counts():
    boxes, labels = np.array([[1.5, 0.5, 3.5, 2.5]]), np.array([0])
    weights = agreement_weights(teachers([peak(2, 1, 2, 2, 0.9)], [peak(2, 1, 2, 2, 0.9)], []), boxes, labels, 6)[:, 0]
    np.testing.assert_allclose(weights, [0.5, 0.5, 0], atol=1e-3)
    missed = agreement_weights(teachers([], [], []), boxes, labels, 6)[:, 0]
    np.testing.assert_allclose(missed, 1 / 3)


def test_agreement_counts_inside_the_boxes_of_a_class_alone():
    one, other = np.full((2, 4, 6), 0.8), np.full((2, 4, 6), 0.2)
    peaks = teachers([peak(1, 1, 2, 2, 0.9)], [])
    truth = np.array([[0.5, 0.5, 2.5, 2.5, 0]])
    found = merged("agreement", one, other, peaks=peaks, truth=truth)
    expected = np.full((2, 4, 6), 0.5)
    expected[0, :3, :3] = 0.8  # every cell that the box touches
    np.testing.assert_allclose(found, expected, atol=1e-3)
    nothing = merged("agreement", one, other, peaks=peaks, truth=np.zeros((0, 5)))
    np.testing.assert_allclose(nothing, 0.5)


def test_a_cell_of_two_boxes_belongs_to_the_nearer_centre_and_boxes_may_leave_the_map():
    one, other = plane(0.8), plane(0.2)
    peaks = teachers([peak(1, 1, 4, 4, 0.9)], [peak(4, 1, 4, 4, 0.9)])
    truth = np.array([[-0.5, -0.5, 3.5, 3.5, 0], [2.5, -0.5, 6.5, 3.5, 0], [7, 5, 9, 9, 0], [-3, -3, -1, -1, 0]])
    for objects in (truth, truth[::-1]):
        found = merged("agreement", one, other, peaks=peaks, truth=objects)[0, 1]
        assert np.all(found[:3] > 0.6)
        assert np.all(found[3:] < 0.4)
