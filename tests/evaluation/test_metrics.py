from typing import NamedTuple

import numpy as np
import pytest

from pipeline.evaluation import coco_ap, evaluate_detections, voc_detections, voc_objects


class Record(NamedTuple):
    boxes: np.ndarray
    labels: np.ndarray
    difficult: np.ndarray
    width: int = 100
    height: int = 80


def record(*objects):
    """(label, difficult, x1, y1, x2, y2) each."""
    rows = np.array(objects, np.float32).reshape(-1, 6)
    return Record(rows[:, 2:], rows[:, 0].astype(np.int64), rows[:, 1].astype(bool))


RECORDS = [record((0, 0, 10, 10, 40, 40), (1, 1, 50, 10, 90, 70)), record(), record((0, 0, 0, 0, 20, 30))]
PERFECT = np.array([(0, 0, 0.9, 10, 10, 40, 40), (0, 1, 0.8, 50, 10, 90, 70), (2, 0, 0.7, 0, 0, 20, 30)])


def test_voc_pixels_are_one_based_and_inclusive():
    assert voc_detections(PERFECT)[0].tolist() == [0, 0, 0.9, 11, 11, 40, 40]
    assert voc_objects(RECORDS)[1].tolist() == [0, 1, 1, 51, 11, 90, 70]
    assert PERFECT[0, 3] == 10  # the caller's rows are not touched


def test_perfect_detections_are_a_hundred_percent_without_the_class_that_does_not_count():
    metrics = evaluate_detections(PERFECT, RECORDS, ["cat", "dog"])
    assert metrics.pop("per_class") == {"cat": pytest.approx(100), "dog": None}
    assert metrics == dict.fromkeys(["map_area", "map07", "ap", "ap75"], pytest.approx(100))


def test_no_detections_are_zero_and_no_objects_none():
    nothing = np.empty((0, 7), np.float32)
    assert evaluate_detections(nothing, RECORDS, ["cat", "dog"])["map_area"] == 0
    assert evaluate_detections(nothing, RECORDS, ["cat", "dog"])["ap"] == 0
    empty = evaluate_detections(nothing, [record()], ["cat"])
    assert empty == {"map_area": None, "map07": None, "ap": None, "ap75": None, "per_class": {"cat": None}}


def test_coco_ap_counts_thresholds():
    # IoU 30x24 / 30x30 = .8: a hit at .5 ... .75 and (not strictly) .8, seven of ten thresholds.
    shifted = np.array([(0, 0, 0.9, 0, 0, 30, 24)])
    result = coco_ap(shifted, [record((0, 0, 0, 0, 30, 30))], 1)
    assert result == {"ap": pytest.approx(0.7), "ap75": pytest.approx(1)}


def test_coco_ap_ignores_difficult_objects():
    records = [record((0, 0, 0, 0, 30, 30), (0, 1, 50, 0, 90, 40))]
    on_difficult = np.array([(0, 0, 0.9, 50, 0, 90, 40), (0, 0, 0.8, 0, 0, 30, 30)])
    assert coco_ap(on_difficult, records, 1)["ap"] == pytest.approx(1)


def test_coco_evaluation_prints_nothing(capfd):
    coco_ap(PERFECT, RECORDS, 2)
    assert capfd.readouterr() == ("", "")
